package dns_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	mdns "github.com/miekg/dns"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tullemesh/tulle/internal/agent/dns"
)

// field appends one field of bytes.
func field(b []byte, number protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), value)
}

// nameInfo is one entry of a serialized name table.
func nameInfo(host string, info []byte) []byte {
	return field(nil, 1, string(field(field(nil, 1, host), 2, string(info))))
}

func TestNameTableOfAnXDSServer(t *testing.T) {
	info := field(field(field(field(field(nil, 1, "240.240.0.1"), 1, "2001:db8::1"), 2, "Kubernetes"), 3, "reviews"), 4, "default")
	info = protowire.AppendVarint(protowire.AppendTag(info, 99, protowire.VarintType), 7) // of a later Istio
	b := append(nameInfo("reviews.default.svc.cluster.local", info), nameInfo("provider.bank.example", field(nil, 1, "240.240.0.2"))...)
	got, err := dns.ParseNameTable(b)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]dns.Entry{
		"reviews.default.svc.cluster.local": {IPs: ips("240.240.0.1", "2001:db8::1"), Registry: "Kubernetes", ShortName: "reviews", Namespace: "default"},
		"provider.bank.example":             {IPs: ips("240.240.0.2")},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestDamagedNameTableIsRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"cut short":       nameInfo("a.example", field(nil, 1, "240.240.0.1"))[:8],
		"address is none": nameInfo("a.example", field(nil, 1, "localhost")),
		"no message":      {0xff},
	} {
		if _, err := dns.ParseNameTable(b); !errors.Is(err, dns.ErrNameTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBeforeTheFirstTableNothingIsSaidAboutNames(t *testing.T) {
	server := serve(t, dns.Options{Own: []string{"cluster.local"}}, nil)
	for _, name := range []string{"reviews", "reviews.default.svc.cluster.local"} {
		if got := text(ask(t, server, "udp", name, mdns.TypeA)); !strings.HasPrefix(got, "SERVFAIL") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func FuzzNameTable(f *testing.F) {
	f.Add(nameInfo("a.example", field(nil, 1, "240.240.0.1")))
	f.Add([]byte{0x0a, 0x05, 0x12})
	f.Fuzz(func(t *testing.T, b []byte) {
		hosts, err := dns.ParseNameTable(b)
		if err != nil {
			return
		}
		table, err := dns.NewTable(hosts, dns.Client{Namespace: "default", Domain: "cluster.local"})
		if err == nil && table.Len() < len(hosts) && !sameInLowerCase(hosts) {
			t.Errorf("%d hosts became %d names", len(hosts), table.Len())
		}
	})
}

// sameInLowerCase tells hosts that are one name: DNS does not tell cases apart, and a final dot is not part of a name.
func sameInLowerCase(hosts map[string]dns.Entry) bool {
	seen := map[string]bool{}
	for h := range hosts {
		h = strings.TrimSuffix(strings.ToLower(h), ".")
		if seen[h] {
			return true
		}
		seen[h] = true
	}
	return false
}
