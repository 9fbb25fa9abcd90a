// Command zot is zot in the version that can be had from the module proxy, for the
// benchmarks: its server with the extension that makes it a pull-through cache, and
// nothing else. Build it with the tags sync and containers_image_openpgp.
//
// Later versions are published under zotregistry.dev, which the proxy does not serve.
// What go.mod replaces is what zot's own replaces.
package main

import (
	"os"

	"zotregistry.io/zot/pkg/cli"
)

func main() {
	if err := cli.NewServerRootCmd().Execute(); err != nil {
		os.Exit(1)
	}
}
