package message

import (
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

var _ router.HeaderStore = (*Head)(nil)

func build(fields ...string) *Head {
	h := &Head{Authority: []byte("shop")}
	for i := 0; i < len(fields); i += 2 {
		h.Append([]byte(fields[i]), []byte(fields[i+1]))
	}
	return h
}

func text(h *Head) string {
	out := ""
	for _, f := range h.Fields() {
		if len(f.Name) > 0 {
			out += string(f.Name) + "=" + string(f.Value) + ";"
		}
	}
	return out
}

func TestHeadAnswersAsOneListOfFields(t *testing.T) {
	cases := []struct {
		name, field, want string
		present           bool
	}{
		{"single", "a", "1", true},
		{"absent", "z", "", false},
		{"repeated fields join by comma", "b", "2,3", true},
		{"cookies join by semicolon", "cookie", "x=1; y=2", true},
		{"empty value is present", "e", "", true},
		{"host is the authority", "host", "shop", true},
	}
	h := build("a", "1", "b", "2", "cookie", "x=1", "b", "3", "cookie", "y=2", "e", "")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v, ok := h.Get(c.field)
			if string(v) != c.want || ok != c.present {
				t.Errorf("got %q, %v", v, ok)
			}
		})
	}
}

func TestHeadMutations(t *testing.T) {
	cases := []struct {
		name string
		do   func(h *Head)
		want string
	}{
		{"add keeps what is there", func(h *Head) { h.Add("a", []byte("9")) }, "a=1;b=2;a=3;a=9;"},
		{"set replaces all by one in place", func(h *Head) { h.Set("a", []byte("9")) }, "a=9;b=2;"},
		{"set adds what is absent", func(h *Head) { h.SetString("c", "9") }, "a=1;b=2;a=3;c=9;"},
		{"set string replaces", func(h *Head) { h.SetString("a", "9") }, "a=9;b=2;"},
		{"remove takes all", func(h *Head) { h.Remove("a") }, "b=2;"},
		{"remove of an absent field", func(h *Head) { h.Remove("z") }, "a=1;b=2;a=3;"},
		{"added again after removal", func(h *Head) { h.Remove("a"); h.Add("a", []byte("7")) }, "b=2;a=7;"},
		{"set to its own value", func(h *Head) { v, _ := h.Get("b"); h.Set("b", v) }, "a=1;b=2;a=3;"},
		{"prefix", func(h *Head) { h.RemovePrefix("a", nil) }, "b=2;"},
		{"prefix with exceptions", func(h *Head) { h.RemovePrefix("", func(n []byte) bool { return string(n) == "b" }) }, "b=2;"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := build("a", "1", "b", "2", "a", "3")
			c.do(h)
			if got := text(h); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestPseudoHeadersCanBeSet(t *testing.T) {
	h := build()
	h.Set(":path", []byte("/x"))
	h.Set(":authority", []byte("other"))
	h.Add("host", []byte("third"))
	h.Set(":method", []byte("PUT"))
	h.Set(":scheme", []byte("https"))
	if string(h.Path) != "/x" || string(h.Authority) != "third" || string(h.Method) != "PUT" || string(h.Scheme) != "https" || h.Len() != 0 {
		t.Errorf("%+v", h)
	}
}

func TestValuesSurviveGrowthOfTheArena(t *testing.T) {
	h := build()
	first := h.KeepString("first")
	for range 1000 {
		h.Add("x", []byte("0123456789"))
	}
	if string(first) != "first" || h.Values("x") != 1000 {
		t.Errorf("%q, %d", first, h.Values("x"))
	}
	h.Reset()
	if h.Len() != 0 || h.Authority != nil {
		t.Errorf("reset left %+v", h)
	}
}

func TestMutationsDoNotAllocate(t *testing.T) {
	h, name, value := build(), []byte("a"), []byte("1")
	n := testing.AllocsPerRun(100, func() {
		h.Reset()
		h.Append(name, value)
		h.Append(name, value)
		h.Set("x-request-id", value)
		h.SetString("x-forwarded-proto", "http")
		h.Remove("a")
		h.Get("x-request-id")
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
