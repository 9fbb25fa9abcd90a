package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"registry-module/config"
	"registry-module/iotedge/deployment"
)

// deployFlags are those of deploy iotedge, as they are written.
type deployFlags struct {
	o                         deployment.Options
	layer                     string
	upstreams, modules, env   []string
	config                    string
	htpasswd, policy, maxSize string
	edgeCA                    string
	withSecrets               bool
	output, file, format      string
	force                     bool

	notes   []string
	secrets map[string]string // of the configuration
}

func deployIoTEdgeCommand() *cobra.Command {
	f := deployFlags{edgeCA: "files"}
	cmd := &cobra.Command{
		Use:   "iotedge",
		Short: "Make the deployment of one layer of Azure IoT Edge gateways",
		Long: `Make what one layer of a hierarchy of Azure IoT Edge gateways needs: deployment.json (with
--layered layered.json), config.toml of the device, certificates.sh, which makes its
certificates with OpenSSL, and a README.md that says what to do with them. With --output they
go into a directory; without, the manifest goes to standard output, or the file that --file
names.

  top      sees the internet: registry-module, the API proxy, and on demand Azure Blob
           Storage on IoT Edge and the metrics collector
  middle   has a parent and children: the API proxy, and with --cache a registry-module
           whose remote is the parent
  bottom   has a parent only: its modules, or a sample

Remotes, limits and access come from flags, from the module's own config.yml (--config), or
from both. Secrets are never in the files: there are placeholders such as
${REGISTRY_PROXY_PASSWORD_2}, and what to fill in is told. Passwords in files of the device
(passwordfile) are better. With --with-secrets they are filled in, from the configuration or
from environment variables with the names of the placeholders.

All images of lower layers are pulled from the parent: mcr.microsoft.com/NAME is
$upstream:8000/NAME there, and another one $upstream:8000/REGISTRY/NAME.`,
		Example: `  registry-module deploy iotedge --layer top --hostname top.site.example \
      --image contoso.azurecr.io/registry-module:1.0 \
      --upstream https://mcr.microsoft.com \
      --upstream https://contoso.azurecr.io,username=site-pull --blob --output top
  registry-module deploy iotedge --layer middle --cache --hostname middle.site.example \
      --parent-hostname top.site.example --image contoso.azurecr.io/registry-module:1.0 --output middle
  registry-module deploy iotedge --layer bottom --hostname bottom.site.example \
      --parent-hostname middle.site.example --module press=contoso.azurecr.io/press:3 --output bottom
  registry-module deploy iotedge --layer top --config config.yml --image contoso.azurecr.io/registry-module:1.0 --layered
  az iot edge set-modules --device-id top --hub-name contoso --content top/deployment.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.add(cmd)
	return cmd
}

func (f *deployFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.layer, "layer", "", "top, middle or bottom")
	flags.BoolVar(&f.o.Layered, "layered", false, "make a layered deployment, for a device with a base deployment")
	flags.StringVar(&f.o.Hostname, "hostname", "", "how children find this device: a DNS name or an IPv4 address")
	flags.StringVar(&f.o.ParentHostname, "parent-hostname", "", "how this device finds its parent, the same as the parent's --hostname")
	flags.StringVar(&f.o.Image, "image", "", "the image of registry-module")
	flags.StringArrayVar(&f.upstreams, "upstream", nil, "a remote registry, once for each: URL[,alias=NAME][,username=NAME][,passwordfile=PATH][,default=false]; "+
		"on lower layers those that the top has")
	flags.StringVar(&f.config, "config", "", "take settings from this config.yml of registry-module")
	flags.StringArrayVar(&f.env, "env", nil, "a further setting: REGISTRY_...=VALUE")
	flags.StringVar(&f.maxSize, "max-size", "", "how much of the disk the cache takes at most, for example 8GiB (cache.maxsize)")
	flags.StringVar(&f.htpasswd, "htpasswd", "", "a file on the device with who may pull (auth.htpasswd.path)")
	flags.StringVar(&f.policy, "policy", "", "a file on the device that says who may pull what (access.policy)")
	flags.IntVar(&f.o.Port, "port", deployment.DefaultPort, "port of the host that children pull from, the same on all layers")
	flags.BoolVar(&f.o.Direct, "direct", false, "no API proxy: children pull from registry-module, which has a certificate of the workload API")
	flags.BoolVar(&f.o.Cache, "cache", false, "middle: keep what passes, with a registry-module of its own")
	flags.BoolVar(&f.o.Blob, "blob", false, "top: add Azure Blob Storage on IoT Edge")
	flags.BoolVar(&f.o.Metrics, "metrics", false, "add the metrics collector: the top sends to Azure Monitor, lower layers through IoT Hub")
	flags.StringArrayVar(&f.modules, "module", nil, "a further module: NAME=IMAGE")
	flags.StringVar(&f.o.Login, "login", "", "lower layers: the name to log in with at the parent (default is a placeholder)")
	flags.BoolVar(&f.o.Anonymous, "anonymous", false, "lower layers: do not log in at the parent")
	flags.StringVar(&f.o.ProxyModule, "proxy-module", deployment.DefaultProxyModule, "name of the API proxy, the same on all layers")
	flags.StringVar(&f.o.Runtime, "runtime-version", deployment.DefaultRuntime, "version of edgeAgent and edgeHub")
	flags.StringVar(&f.edgeCA, "edge-ca", f.edgeCA, "the device's CA: files (of certificates.sh), or auto for a test")
	flags.BoolVar(&f.withSecrets, "with-secrets", false, "fill in secrets, in clear")
	flags.StringVar(&f.output, "output", "", "directory for the files")
	flags.BoolVar(&f.force, "force", false, "overwrite files in it that are different")
	flags.StringVar(&f.file, "file", "", "print this file: deployment.json (layered.json), config.toml, certificates.sh or README.md")
	flags.StringVarP(&f.format, "format", "o", "", "output format: json, which has all files, placeholders and notes")
}

func (f *deployFlags) run(cmd *cobra.Command) error {
	errs := []error{f.read()}
	configured, err := f.readConfig()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if f.o.Layer != deployment.Top {
		var upstreams []deployment.Upstream
		configured, upstreams = deployment.Below(configured)
		f.o.Upstreams = append(f.o.Upstreams, upstreams...)
	}
	for name, value := range configured {
		if _, ok := f.o.Settings[name]; !ok {
			f.o.Settings[name] = value
		}
	}
	r, err := deployment.Generate(f.o)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return usageError{fmt.Errorf("%w\nsee '%s --help'", err, cmd.CommandPath())}
	}
	if f.withSecrets {
		if err := r.Fill(f.secret); err != nil {
			return err
		}
	}
	return f.write(cmd, r)
}

// secret returns the value for a placeholder.
func (f *deployFlags) secret(name string) (string, bool) {
	if value, ok := f.secrets[name]; ok {
		return value, true
	}
	return os.LookupEnv(name)
}

// read reads the flags into the options.
func (f *deployFlags) read() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	f.o.Layer = deployment.Layer(f.layer)
	f.o.Settings, f.o.Modules, f.secrets = map[string]string{}, map[string]string{}, map[string]string{}
	for _, text := range f.upstreams {
		u, err := readUpstream(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.o.Upstreams = append(f.o.Upstreams, u)
	}
	for _, text := range f.modules {
		name, image, ok := strings.Cut(text, "=")
		if _, twice := f.o.Modules[name]; twice {
			bad("--module %s is given twice", name)
		}
		if f.o.Modules[name] = image; !ok {
			bad("--module %q: write NAME=IMAGE", text)
			delete(f.o.Modules, name)
		}
	}
	set := func(flag, name, value string) {
		if value == "" {
			return
		}
		if _, twice := f.o.Settings[name]; twice {
			bad("%s: %s is set already: write only one of them", flag, name)
		}
		f.o.Settings[name] = value
		if deployment.IsSecret(name, value) {
			f.secrets[name] = value
		}
	}
	for _, text := range f.env {
		name, value, ok := strings.Cut(text, "=")
		if !ok || !strings.HasPrefix(name, "REGISTRY_") {
			bad("--env: write REGISTRY_...=VALUE") // what is written may be a secret
			continue
		}
		set("--env", name, value)
	}
	if f.maxSize != "" {
		if _, err := config.ParseSize(f.maxSize); err != nil {
			bad("--max-size %q %w", f.maxSize, err)
		}
	}
	set("--max-size", "REGISTRY_CACHE_MAXSIZE", f.maxSize)
	set("--htpasswd", "REGISTRY_AUTH_HTPASSWD_PATH", f.htpasswd)
	if f.htpasswd != "" {
		f.o.Settings["REGISTRY_AUTH_HTPASSWD_REALM"] = "registry"
	}
	set("--policy", "REGISTRY_ACCESS_POLICY", f.policy)
	switch f.edgeCA {
	case "auto":
		f.o.AutoEdgeCA = true
	case "files":
	default:
		bad("--edge-ca %q is not known: write files or auto", f.edgeCA)
	}
	return errors.Join(append(errs, f.checkOutput())...)
}

// checkOutput checks where the files are to go.
func (f *deployFlags) checkOutput() error {
	errs := []error{checkFormat(f.format)}
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	manifest := deployment.ManifestFile
	if f.o.Layered {
		manifest = deployment.LayeredFile
	}
	files := []string{manifest, deployment.ConfigFile, deployment.CertificatesFile, deployment.NotesFile}
	if f.file != "" && !slices.Contains(files, f.file) {
		bad("--file %q is none of %s", f.file, strings.Join(files, ", "))
	}
	if f.file != "" && f.output != "" {
		bad("--file is for standard output, and --output for a directory: write only one of them")
	}
	if f.force && f.output == "" {
		bad("--force is for --output")
	}
	device := f.output != "" || f.file == deployment.ConfigFile || f.file == deployment.CertificatesFile
	if device && f.o.Hostname == "" {
		bad("--hostname is missing: config.toml and the certificates need the name by which children find this device")
	}
	if device && f.o.ParentHostname == "" && (f.layer == string(deployment.Middle) || f.layer == string(deployment.Bottom)) {
		bad("--parent-hostname is missing: config.toml needs the name by which this device finds its parent")
	}
	if f.file == deployment.CertificatesFile && f.o.AutoEdgeCA {
		bad("--file %s: with --edge-ca auto there is none", f.file)
	}
	return errors.Join(errs...)
}

// readUpstream reads a remote registry as it is written in a flag. Messages have only the
// names of what is wrong: there can be passwords.
func readUpstream(text string) (deployment.Upstream, error) {
	url, options, _ := strings.Cut(text, ",")
	u := deployment.Upstream{URL: url}
	if options == "" {
		return u, nil
	}
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch {
		case key == "alias" && value != "":
			u.Alias = value
		case key == "username" && value != "":
			u.Username = value
		case key == "passwordfile" && value != "":
			u.PasswordFile = value
		case key == "default" && value == "false":
			u.NotDefault = true
		case key == "default" && value == "true":
		case key == "password":
			return u, errors.New("--upstream: no password on the command line: write passwordfile=PATH, a file on the device, or username=NAME alone for a placeholder")
		default:
			return u, fmt.Errorf("--upstream: option %q is not known or has no value: there are alias=NAME, username=NAME, passwordfile=PATH and default=true or false", key)
		}
	}
	return u, nil
}
