// Command production breaks an invariant outside of any test and prints what
// happened; the test of the package builds and runs it.
package main

import (
	"fmt"

	"github.com/tullemesh/tulle/internal/invariant"
)

func main() {
	fmt.Println(invariant.Check(true, "holds"), invariant.Check(false, "broken"), invariant.Check(false, "again"), invariant.Violations())
}
