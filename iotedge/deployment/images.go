package deployment

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Images of Microsoft, without tags where those are chosen.
const (
	mcr           = "mcr.microsoft.com"
	agentImage    = mcr + "/azureiotedge-agent:"
	hubImage      = mcr + "/azureiotedge-hub:"
	proxyImage    = mcr + "/azureiotedge-api-proxy:1.1"
	metricsImage  = mcr + "/azureiotedge-metrics-collector:1.1"
	blobImage     = mcr + "/azure-blob-storage:latest"
	sampleImage   = mcr + "/azureiotedge-simulated-temperature-sensor:1.5"
	sampleModule  = "SimulatedTemperatureSensor"
	upstreamHost  = "$upstream"
	maxImageBytes = 1024
)

var (
	// imageForm is the form that edgeAgent wants, after $upstream was filled in
	// (DockerConfig.ValidateAndGetImage).
	imageForm = regexp.MustCompile(`^([^/]*/)*[^/:]+(:[^/:]+)?$`)
	// upstreamForm is what edgeAgent takes for the parent (NestedEdgeParentUriParser).
	upstreamForm = regexp.MustCompile(`^\$upstream:[1-9][0-9]{0,4}/`)
	// inBraces are placeholders, which have to be filled in before.
	inBraces = regexp.MustCompile(`\$\{[^{}]*\}`)
)

// checkImage returns what is wrong with an image of a module, which may have placeholders.
func checkImage(image string) error {
	filled := inBraces.ReplaceAllString(image, "x")
	switch {
	case strings.TrimSpace(image) == "":
		return errors.New("the image is empty: write for example " + hubImage + DefaultRuntime)
	case len(image) > maxImageBytes:
		return errors.New("the image is too long")
	case strings.ContainsAny(image, " \t\r\n"):
		return fmt.Errorf("image %q has a space in it", image)
	case strings.Contains(filled, upstreamHost) && !upstreamForm.MatchString(filled):
		return fmt.Errorf("image %q: $upstream has to be at the beginning, with the port behind it: write $upstream:%d/NAME:TAG", image, DefaultPort)
	case strings.HasPrefix(filled, "$") && !strings.HasPrefix(filled, upstreamHost):
		return fmt.Errorf("image %q: only $upstream is filled in on the device: write that, or the registry", image)
	case !imageForm.MatchString(filled):
		return fmt.Errorf("image %q is not in the form that edgeAgent takes: write REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST", image)
	}
	return nil
}

// below returns what an image is called on this layer: on the top its name, and below at
// the parent. Names at the root of mcr.microsoft.com stay at the root, where `iotedge
// check` and the bootstrap of IoT Edge look for them; others have their registry in front.
func (o Options) below(image string) (string, error) {
	if o.Layer == Top || strings.HasPrefix(image, upstreamHost) {
		return image, nil
	}
	parent := upstreamHost + ":" + strconv.Itoa(o.Port) + "/"
	registry, name, found := strings.Cut(image, "/")
	if !found || !strings.ContainsAny(registry, ".:") && registry != "localhost" {
		// As Docker reads names without a registry.
		registry, name = "docker.io", image
		if !found {
			name = "library/" + image
		}
	}
	switch {
	case registry == mcr:
		return parent + name, nil
	case strings.Contains(registry, ":"):
		for _, u := range o.Upstreams {
			if host, err := u.host(); err == nil && host == registry && u.Alias != "" {
				return parent + u.Alias + "/" + name, nil
			}
		}
		return "", fmt.Errorf("image %q: a registry with a port cannot be in the name of an image at the parent: write --upstream %s,alias=NAME, as on the top", image, registry)
	}
	return parent + registry + "/" + name, nil
}
