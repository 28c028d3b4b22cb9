package validate

import (
	"net/url"
	"regexp"
	"slices"

	extensions "istio.io/api/extensions/v1alpha1"
)

// Istio's limits of extensions.
const (
	secretNameBytesMax = 253
	pluginNameBytesMax = 256
	luaBytesMax        = 64 * kilobyte
)

var sha256Form = regexp.MustCompile(`^[a-f0-9]{64}$`)

// plugin is what WasmPlugin and TrafficExtension have in common.
type plugin interface {
	GetUrl() string
	GetSha256() string
	GetImagePullSecret() string
	GetPluginName() string
	GetVmConfig() *extensions.VmConfig
}

func (c *checker) wasmPlugin(p *extensions.WasmPlugin) {
	c.targets(p.Selector, p.TargetRef, p.TargetRefs)
	c.plugin("spec", p)
	for i, m := range p.Match {
		for j, port := range m.GetPorts() {
			c.check(index(index("spec", "match", i), "ports", j)+".number", portRule(int64(port.GetNumber())))
		}
	}
}

func (c *checker) trafficExtension(x *extensions.TrafficExtension) {
	c.targets(x.Selector, nil, x.TargetRefs)
	wasm, lua := x.GetWasm(), x.GetLua()
	switch {
	case wasm != nil:
		c.plugin("spec.wasm", wasm)
	case lua == nil:
		c.errorf("spec", "add wasm or lua", "the extension has no code")
	case lua.InlineCode == "":
		c.errorf("spec.lua", "add inlineCode", "the extension has no code")
	case len(lua.InlineCode) > luaBytesMax:
		c.errorf("spec.lua.inlineCode", "shorten it", "the code has %d bytes, the limit is %d", len(lua.InlineCode), luaBytesMax)
	}
	for i, m := range x.Match {
		for j, port := range m.GetPorts() {
			c.check(index(index("spec", "match", i), "ports", j)+".number", portRule(int64(port.GetNumber())))
		}
	}
}

func (c *checker) plugin(at string, p plugin) {
	if p.GetUrl() == "" {
		c.errorf(at, "add url, such as oci://HOST/IMAGE:TAG", "the plugin has no url")
	} else {
		c.check(at+".url", pluginURLRule(p.GetUrl()))
	}
	if s := p.GetSha256(); s != "" && !sha256Form.MatchString(s) {
		c.errorf(at+".sha256", "write 64 digits of lower-case hexadecimal", "%q is not a checksum of SHA-256", s)
	}
	if len(p.GetImagePullSecret()) > secretNameBytesMax {
		c.errorf(at+".imagePullSecret", "shorten it", "the name has more than %d characters", secretNameBytesMax)
	}
	if len(p.GetPluginName()) > pluginNameBytesMax {
		c.errorf(at+".pluginName", "shorten it", "the name has more than %d characters", pluginNameBytesMax)
	}
	var names []string
	for i, e := range p.GetVmConfig().GetEnv() {
		path := index(at+".vmConfig", "env", i)
		switch {
		case e.GetName() == "":
			c.errorf(path, "add name", "the variable has no name")
		case len(e.Name) > pluginNameBytesMax:
			c.errorf(path+".name", "shorten it", "the name has more than %d characters", pluginNameBytesMax)
		case slices.Contains(names, e.Name):
			c.errorf(path+".name", "remove one of them", "variable %q stands twice", e.Name)
		case e.ValueFrom != extensions.EnvValueSource_INLINE && e.Value != "":
			c.errorf(path+".value", "remove it, or use INLINE", "valueFrom %s takes no value", e.ValueFrom)
		}
		names = append(names, e.GetName())
	}
}

// pluginURLRule takes file, http, https and oci; without a scheme it is an image.
func pluginURLRule(text string) error {
	const hint = "use oci://, https://, http:// or file://"
	u, err := url.ParseRequestURI(text)
	if err != nil {
		if u, err = url.ParseRequestURI("http://" + text); err != nil {
			return broken(hint, "%q is not a URL", text)
		}
	} else if _, err := url.Parse(text); err != nil {
		return broken(hint, "%q is not a URL", text)
	}
	if !slices.Contains([]string{"", "file", "http", "https", "oci"}, u.Scheme) {
		return broken(hint, "%q has the scheme %q", text, u.Scheme)
	}
	return nil
}
