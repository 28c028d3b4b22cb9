// Command xdsload measures a control plane under many proxies: how soon each
// has its whole configuration, how soon a change reaches all of them, and what
// that costs the server.
//
// In go a folder of Istio YAML (made by "gen", edited by the churn phases) and
// the address of any Istio-style ADS server that watches it; out come CSV rows,
// one a phase. It knows no code of the server: it plays sidecars over delta or
// state of the world, as Envoy does, or over delta with virtual hosts as
// resources of their own (VHDS).
//
//	xdsload gen -dir DIR -services 1000
//	xdsload run -addr HOST:PORT -dir DIR -services 1000 -proxies 500 -mode vhds
//
// Read run.go for the phases, proxy.go for what a proxy does, gen.go for the
// objects.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		printUsage()
	}
	var err error
	switch os.Args[1] {
	case "gen":
		err = runGen(os.Args[2:])
	case "run":
		err = runLoad(os.Args[2:])
	default:
		printUsage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "xdsload:", err)
		os.Exit(1)
	}
}

func printUsage() {
	fmt.Fprintln(os.Stderr, "usage: xdsload gen|run [flags]; -h shows them")
	os.Exit(2)
}

// runGen writes the folder.
func runGen(args []string) error {
	fs := flag.NewFlagSet("gen", flag.ContinueOnError)
	dir := fs.String("dir", "", "folder to write")
	var m mesh
	m.flags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		return fmt.Errorf("gen: -dir is missing")
	}
	return m.write(*dir)
}
