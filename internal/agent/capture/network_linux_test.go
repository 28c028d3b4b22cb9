package capture

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
)

// network is one of a subnet with so many namespaces, which the kernel knows nothing of.
func network(subnet string, spaces int) *Network {
	n := &Network{subnet: netip.MustParsePrefix(subnet)}
	n.gateway = n.subnet.Addr().Next()
	n.next = n.gateway
	for i := range spaces {
		n.next = n.next.Next()
		n.spaces = append(n.spaces, &Namespace{name: "w" + strconv.Itoa(i), addr: n.next})
	}
	return n
}

func TestNamespacesOfARunAreLimited(t *testing.T) {
	const most = limit.NamespacesMax
	for number, want := range map[int]string{most - 1: "", most: "", most + 1: "1001 namespaces, the limit is 1000"} {
		_, err := network("10.77.0.0/16", number-1).placeLocked("new")
		if got := text(err); got != want {
			t.Errorf("namespace %d: error %q, want %q", number, got, want)
		}
	}
}

func TestNamespacesHaveNamesAndAddressesOfTheirOwn(t *testing.T) {
	closed := network("10.77.0.0/24", 1)
	closed.closed = true
	for name, c := range map[string]struct {
		network    *Network
		space      string
		addr, want string
	}{
		"the first":                    {network("10.77.0.0/24", 0), "new", "10.77.0.2", ""},
		"the last address of a subnet": {network("10.77.0.0/24", 252), "new", "10.77.0.254", ""},
		"one more than a subnet holds": {network("10.77.0.0/24", 253), "new", "", "subnet 10.77.0.0/24 has no address left"},
		"a name that is there":         {network("10.77.0.0/24", 3), "w2", "", "namespace w2 is there already"},
		"a network that is closed":     {closed, "new", "", "network is closed"},
	} {
		t.Run(name, func(t *testing.T) {
			addr, err := c.network.placeLocked(c.space)
			if got := text(err); got != c.want || err == nil && addr.String() != c.addr {
				t.Errorf("address %s, error %q; want %s, %q", addr, got, c.addr, c.want)
			}
		})
	}
}

// text is an error's, or empty.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
