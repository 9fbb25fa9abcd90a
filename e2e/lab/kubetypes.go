package lab

import (
	"context"
	"path/filepath"
)

// KubeTypes builds the command that reads manifests with the types of the Kubernetes API,
// and returns the path of the binary: see the module in e2e/kubetypes.
func KubeTypes(ctx context.Context) (path string, err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	return build(ctx, root, filepath.Join(root, "e2e/kubetypes"), "kubetypes", []string{"CGO_ENABLED=0"}, "-trimpath", "-buildvcs=false", ".")
}
