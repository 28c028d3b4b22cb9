package capture

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Surroundings are what a process is told of the mesh.
type Surroundings struct {
	// Workload is the process's name, Run the folder of the run's sockets, Executable our own program: TULLE_WORKLOAD, TULLE_RUN, TULLE.
	Workload, Run, Executable string
	// Proxy is the workload's outbound HTTP proxy; the zero value sets none, as in a namespace.
	Proxy netip.AddrPort
	// Upstreams are the services with an address of their own for this caller.
	Upstreams []Upstream
	// JVM says that a Java program is started; JavaOptions is what JAVA_TOOL_OPTIONS holds already.
	JVM         bool
	JavaOptions string
}

// Upstream is a service and where this caller reaches it.
type Upstream struct {
	Service string
	Address netip.AddrPort
	// Scheme is for <SVC>_URL, such as http; empty: no such variable.
	Scheme string
}

// Environment returns the variables that capture proxy, or a namespace, gives to a process. Equal input gives equal output. What is
// served on loopback itself never takes the proxy.
func Environment(s Surroundings) map[string]string {
	env := map[string]string{"TULLE_WORKLOAD": s.Workload, "TULLE_RUN": s.Run, "TULLE": s.Executable}
	if s.Proxy.IsValid() {
		proxy := "http://" + s.Proxy.String()
		for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
			env[name] = proxy
		}
		env["NO_PROXY"] = "localhost,127.0.0.1,::1"
		env["no_proxy"] = env["NO_PROXY"]
		env["NODE_USE_ENV_PROXY"] = "1" // Node 24 and newer; older ones ignore proxies of the environment
		if s.JVM {
			env["JAVA_TOOL_OPTIONS"] = javaOptions(s.JavaOptions, s.Proxy)
		}
	}
	for _, u := range s.Upstreams {
		name := VariableName(u.Service)
		env[name+"_SERVICE_HOST"] = u.Address.Addr().String()
		env[name+"_SERVICE_PORT"] = strconv.Itoa(int(u.Address.Port()))
		if u.Scheme != "" {
			env[name+"_URL"] = u.Scheme + "://" + u.Address.String()
		}
	}
	return env
}

// VariableName is a service's name as the first part of its variables, as Kubernetes writes it: upper case, dashes and dots as underscores.
func VariableName(service string) string {
	return strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(service))
}

func javaOptions(before string, proxy netip.AddrPort) string {
	host, port := proxy.Addr().String(), strconv.Itoa(int(proxy.Port()))
	options := []string{
		"-Dhttp.proxyHost=" + host, "-Dhttp.proxyPort=" + port, "-Dhttps.proxyHost=" + host, "-Dhttps.proxyPort=" + port,
		"-Dhttp.nonProxyHosts=localhost|127.*|[::1]",
	}
	if before != "" {
		options = slices.Insert(options, 0, before)
	}
	return strings.Join(options, " ")
}

// StartsJVM reports whether a command, as words or as one shell line each, starts a Java program: Java ignores HTTP_PROXY.
func StartsJVM(words ...string) bool {
	for _, w := range words {
		for _, f := range strings.FieldsFunc(w, func(r rune) bool { return strings.ContainsRune(" \t\n;&|()\"'", r) }) {
			if slices.Contains([]string{"java", "gradle", "gradlew", "mvn", "mvnw", "sbt", "kotlin", "scala"}, path.Base(f)) {
				return true
			}
		}
	}
	return false
}
