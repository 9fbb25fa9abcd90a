package deployment

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Layer is a place in the hierarchy.
type Layer string

// The layers. There can be any number of middle ones.
const (
	// Top is the device that sees the internet.
	Top Layer = "top"
	// Middle has a parent and children.
	Middle Layer = "middle"
	// Bottom has a parent only.
	Bottom Layer = "bottom"
)

// Defaults of [Options].
const (
	// DefaultPort is where the API proxy listens in Microsoft's samples.
	DefaultPort = 8000
	// DefaultProxyModule is what the API proxy is called there. A proxy verifies its
	// parent's certificate by its own name, so it has to be the same on all layers.
	DefaultProxyModule = "IoTEdgeAPIProxy"
	// DefaultRuntime is the version of edgeAgent and edgeHub.
	DefaultRuntime = "1.5"
)

// Options say what [Generate] is to make. Layer is needed, Image where registry-module runs
// on the layer, and one remote on the top.
type Options struct {
	Layer Layer
	// Layered asks for a layered deployment, for a device that has its system modules from
	// a base deployment.
	Layered bool

	// Hostname is the name or address by which children find this device, and
	// ParentHostname that by which it finds its parent. config.toml and the certificates
	// need them.
	Hostname, ParentHostname string

	// Image is that of registry-module. On lower layers, an image of another registry
	// than $upstream is taken to be asked for at the parent.
	Image string
	// Upstreams are the remote registries on the top. On a lower layer with a cache they
	// are those that the top has, which clients may ask for with ?ns=.
	Upstreams []Upstream
	// Settings are further REGISTRY_* variables of registry-module. They can say what the
	// remotes are instead of Upstreams.
	Settings map[string]string

	// Port is that of the API proxy, or of registry-module with Direct, on the host. It is
	// the same on all layers. 0 stands for DefaultPort.
	Port int
	// Direct leaves the API proxy out: children talk to registry-module itself, at the
	// host's port, with TLS by a certificate of the workload API.
	Direct bool
	// Cache has a middle layer keep what passes it.
	Cache bool
	// Blob adds Azure Blob Storage on IoT Edge, on the top.
	Blob bool
	// Metrics adds the metrics collector.
	Metrics bool
	// Modules are further modules: images by name. A bottom layer without any gets a
	// sample.
	Modules map[string]string

	// Login is what this layer logs in with at its parent; empty, it is a placeholder.
	// Anonymous is no login at all.
	Login     string
	Anonymous bool

	// ProxyModule and Runtime have the defaults above.
	ProxyModule, Runtime string
	// AutoEdgeCA leaves the device's CA to IoT Edge, which no other device trusts.
	AutoEdgeCA bool
}

// Upstream is a remote registry.
type Upstream struct {
	// URL is as in REGISTRY_PROXY_REMOTEURL; without a scheme it means https.
	URL string
	// Alias, Username and PasswordFile are as the settings of these names. With a username
	// and no file, the password is a placeholder.
	Alias, Username, PasswordFile string
	// NotDefault tells that names which say nothing of a registry are not looked for here.
	NotDefault bool
}

var (
	moduleName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,128}$`)
	// hostLabel is a part of a name in DNS (RFC 1123, section 2.1).
	hostLabel = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
	// version is a tag of an image (OCI Distribution, section 3.1.2).
	version = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	// variable is the name of a setting.
	variable = regexp.MustCompile(`^REGISTRY_[A-Z0-9_]+$`)
)

// maxHostname is how long a common name of a certificate can be (RFC 5280, appendix A.1,
// ub-common-name).
const maxHostname = 64

// withDefaults returns o with what is not set.
func (o Options) withDefaults() Options {
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.ProxyModule == "" {
		o.ProxyModule = DefaultProxyModule
	}
	if o.Runtime == "" {
		o.Runtime = DefaultRuntime
	}
	return o
}

// runsRegistry tells whether registry-module runs on the layer.
func (o Options) runsRegistry() bool { return o.Layer == Top || o.Layer == Middle && o.Cache }

// hasProxy tells whether the API proxy runs on the layer.
func (o Options) hasProxy() bool { return o.Layer != Bottom && !o.Direct }

// check returns all that is wrong with o, which has its defaults.
func (o Options) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch o.Layer {
	case Top, Middle, Bottom:
	case "":
		bad("the layer is missing: write --layer top, middle or bottom")
		return errors.Join(errs...)
	default:
		bad("--layer %q is none: write top, middle or bottom", o.Layer)
		return errors.Join(errs...)
	}
	for _, h := range []struct{ flag, host string }{{"--hostname", o.Hostname}, {"--parent-hostname", o.ParentHostname}} {
		if h.host != "" && !isHost(h.host) {
			bad("%s %q is no name of a host: write a DNS name of up to %d characters or an IPv4 address, without scheme and port", h.flag, h.host, maxHostname)
		}
	}
	if o.Hostname != "" && strings.EqualFold(o.Hostname, o.ParentHostname) {
		bad("--hostname and --parent-hostname are both %q: write this device's own name and that of the device above it", o.Hostname)
	}
	if o.Port < 1 || o.Port > 65535 {
		bad("--port %d is none: write one from 1 to 65535", o.Port)
	} else if slices.Contains([]int{5671, 8883}, o.Port) || o.Port == 443 && o.Direct {
		bad("--port %d is edgeHub's: write another one, for example %d", o.Port, DefaultPort)
	}
	if !moduleName.MatchString(o.ProxyModule) {
		bad("--proxy-module %q is no name of a module: write letters, digits, _ and -", o.ProxyModule)
	}
	if !version.MatchString(o.Runtime) {
		bad("--runtime-version %q is no tag of an image: write for example %s", o.Runtime, DefaultRuntime)
	}
	errs = append(errs, o.checkLayer(), o.checkRegistry(), o.checkModules())
	return errors.Join(errs...)
}

// checkLayer returns what does not go with the layer.
func (o Options) checkLayer() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Layer == Top {
		if o.ParentHostname != "" {
			bad("--parent-hostname is for lower layers: the top has no parent")
		}
		if o.Cache {
			bad("--cache is for the middle: the top has a cache in any case")
		}
		if o.Login != "" || o.Anonymous {
			bad("--login and --anonymous are for lower layers, which log in at their parent")
		}
	} else if o.Blob {
		bad("--blob is for the top: lower layers send their blobs there through the API proxies")
	}
	if o.Layer == Bottom && (o.Cache || o.Direct) {
		bad("--cache and --direct are for layers that have children: a bottom layer keeps its images in its container engine")
	}
	if o.Layer == Middle && o.Direct && !o.Cache {
		bad("--direct on a middle layer needs --cache: without API proxy and registry-module there is nothing that children could pull from")
	}
	if o.Direct && o.Blob {
		bad("--blob needs the API proxy, which --direct leaves out: write only one of them")
	}
	if o.Login != "" && o.Anonymous {
		bad("--login and --anonymous contradict each other: write only one of them")
	}
	return errors.Join(errs...)
}

// checkRegistry returns what is wrong for registry-module.
func (o Options) checkRegistry() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.runsRegistry() {
		if o.Image == "" {
			bad("--image is missing: write the image of registry-module, in a registry that the device can pull from, for example contoso.azurecr.io/registry-module:1.0")
		} else if err := checkImage(o.Image); err != nil {
			bad("--image: %w", err)
		} else if strings.Contains(o.Image, "$upstream") && o.Layer == Top {
			bad("--image: $upstream is for lower layers, the top has no parent: write the image with its registry, for example contoso.azurecr.io/registry-module:1.0")
		}
	}
	if o.Layer == Top && len(o.Upstreams) == 0 && o.Settings[remoteURL] == "" {
		bad("a remote registry is missing: write --upstream URL, once for each, or --config with a config.yml that has some")
	}
	if o.Layer == Top && len(o.Upstreams) > 0 && o.Settings[remoteURL] != "" {
		bad("--upstream and the configuration both say what the remote registries are: write only one of them")
	}
	if !o.runsRegistry() && len(o.Settings) > 0 {
		bad("settings of registry-module are for layers that run it: leave them out, or on a middle layer write --cache")
	}
	seen := map[string]bool{}
	for _, u := range o.Upstreams {
		host, err := u.host()
		switch {
		case err != nil:
			errs = append(errs, err)
		case seen[host]:
			bad("--upstream %s: is given twice", host)
		}
		seen[host] = true
		if u.PasswordFile != "" && u.Username == "" {
			bad("--upstream %s: passwordfile needs a username", host)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		if !variable.MatchString(name) {
			bad("%q is no variable of registry-module: they begin with REGISTRY_, in capital letters", name)
		}
	}
	_, err := mounts(o.settings())
	return errors.Join(append(errs, err)...)
}

// checkModules returns what is wrong with further modules.
func (o Options) checkModules() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(o.Modules)) {
		image := o.Modules[name]
		if !moduleName.MatchString(name) {
			errs = append(errs, fmt.Errorf("--module %q is no name of a module: write letters, digits, _ and -", name))
		} else if slices.ContainsFunc([]string{registryModule, blobModule, metricsModule, o.ProxyModule, "edgeAgent", "edgeHub"},
			func(own string) bool { return strings.EqualFold(name, own) }) {
			errs = append(errs, fmt.Errorf("--module %s is a name of a module that is made here: write another one", name))
		}
		if err := checkImage(image); err != nil {
			errs = append(errs, fmt.Errorf("--module %s: %w", name, err))
		} else if _, err := o.below(image); err != nil {
			errs = append(errs, fmt.Errorf("--module %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// host returns the host, and the port if there is one, of the remote.
func (u Upstream) host() (string, error) {
	text := u.URL
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" ||
		parsed.RawQuery != "" || parsed.Fragment != "" || strings.Trim(parsed.Path, "/") != "" {
		// The text is not shown: there can be a password in it.
		return "", errors.New("--upstream is no address of a registry: write for example https://mcr.microsoft.com")
	}
	if parsed.User != nil {
		return "", fmt.Errorf("--upstream %s: no password in the URL: write %s,username=NAME, and there will be a placeholder for it", parsed.Host, parsed.Host)
	}
	return parsed.Host, nil
}

// isHost tells whether s is a name in DNS or an IPv4 address. $upstream:8000 cannot stand for
// one of IPv6, which would need brackets.
func isHost(s string) bool {
	if len(s) > maxHostname {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !hostLabel.MatchString(label) {
			return false
		}
	}
	return true
}
