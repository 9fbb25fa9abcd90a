package deployment

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Names of modules and files.
const (
	registryModule = "registry"
	blobModule     = "AzureBlobStorageonIoTEdge"
	metricsModule  = "IoTEdgeMetricsCollector"

	// ManifestFile and LayeredFile have the deployment manifest.
	ManifestFile = "deployment.json"
	LayeredFile  = "layered.json"
	// ConfigFile is the configuration of the device.
	ConfigFile = "config.toml"
	// CertificatesFile is a script for the device's certificates.
	CertificatesFile = "certificates.sh"
	// NotesFile says what to do with the others.
	NotesFile = "README.md"
)

// Result is what a layer needs.
type Result struct {
	// Files are in the order in which they are used.
	Files []File
	// Placeholders are to be filled in, in the order of their names.
	Placeholders []Placeholder
	// Notes say what else has to be known, a sentence for each.
	Notes []string
	// Images are what the manifest names.
	Images []string

	options Options
}

// File is one of the files of a layer.
type File struct {
	Name    string
	Content []byte
	// Executable tells that it is a script.
	Executable bool
	// Secret tells that there are values in it which not everybody may read.
	Secret bool
}

// Generate makes what a layer needs. An error has all that is wrong with o, a line for
// each. Without hostnames there is no config.toml and no script.
func Generate(o Options) (*Result, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	m, err := o.manifest()
	if err != nil {
		return nil, err
	}
	name, text := ManifestFile, m.Full
	if o.Layered {
		name, text = LayeredFile, m.Layered
	}
	manifest, err := text()
	if err != nil {
		return nil, err
	}
	if problems := Validate(manifest); len(problems) > 0 {
		return nil, fmt.Errorf("the manifest would not be accepted: %v", problems[0])
	}
	r := &Result{options: o, Files: []File{{Name: name, Content: manifest}}, Images: m.Images(), Notes: o.notes(m)}
	if o.Hostname != "" && (o.Layer == Top || o.ParentHostname != "") {
		device, err := o.configTOML()
		if err != nil {
			return nil, err
		}
		script, err := o.certificates()
		if err != nil {
			return nil, err
		}
		r.Files = append(r.Files, File{Name: ConfigFile, Content: device})
		if !o.AutoEdgeCA {
			r.Files = append(r.Files, File{Name: CertificatesFile, Content: script, Executable: true})
		}
	}
	r.findPlaceholders(o)
	r.Files = append(r.Files, File{Name: NotesFile})
	return r, r.describe()
}

// describe writes the notes for people.
func (r *Result) describe() error {
	last := len(r.Files) - 1
	notes, err := r.options.readme(r.Files[:last], r)
	r.Files[last].Content = notes
	return err
}

// manifest is the deployment manifest of the layer.
func (o Options) manifest() (Manifest, error) {
	hubPorts := []int{443, 5671, 8883}
	if o.hasProxy() && o.Port == 443 {
		hubPorts = hubPorts[1:] // the proxy passes on what is for edgeHub
	}
	m := Manifest{
		Runtime:    Runtime{MinDockerVersion: "v1.25", Credentials: o.credentials()},
		EdgeAgent:  Module{Image: agentImage + o.Runtime, Create: logged(HostConfig{})},
		EdgeHub:    Module{StartupOrder: 1, Image: hubImage + o.Runtime, Create: logged(HostConfig{PortBindings: published(hubPorts...)})},
		Modules:    map[string]Module{},
		Routes:     map[string]string{"toUpstream": "FROM /messages/* INTO $upstream"},
		TimeToLive: 7200, // as Azure's tools have it
		Twins:      map[string]map[string]any{},
	}
	if o.runsRegistry() {
		registry, err := o.registry()
		if err != nil {
			return m, err
		}
		m.Modules[registryModule] = registry
	}
	if o.Blob {
		m.Modules[blobModule] = Module{
			StartupOrder: 3, Image: blobImage,
			Create: logged(HostConfig{Binds: []string{"blob-storage:/blobroot"}}),
			Env:    map[string]string{"LOCAL_STORAGE_ACCOUNT_NAME": placeholder(blobAccount), "LOCAL_STORAGE_ACCOUNT_KEY": placeholder(blobKey)},
		}
	}
	if o.hasProxy() {
		m.Modules[o.ProxyModule] = o.proxy()
	}
	if o.Metrics {
		m.Modules[metricsModule] = o.metrics()
	}
	modules := o.Modules
	if o.Layer == Bottom && len(modules) == 0 {
		modules = map[string]string{sampleModule: sampleImage}
		m.Twins[sampleModule] = map[string]any{"SendData": true, "SendInterval": 5}
	}
	for name, image := range modules {
		m.Modules[name] = Module{Version: "1.0", StartupOrder: 6, Image: image, Create: logged(HostConfig{})}
	}
	return m, o.rename(&m)
}

// rename gives the images the names that they have on this layer.
func (o Options) rename(m *Manifest) error {
	var err error
	for _, system := range []*Module{&m.EdgeAgent, &m.EdgeHub} {
		if system.Image, err = o.below(system.Image); err != nil {
			return err
		}
	}
	for name, module := range m.Modules {
		if module.Image, err = o.below(module.Image); err != nil {
			return err
		}
		m.Modules[name] = module
	}
	return nil
}

// registry is registry-module itself.
func (o Options) registry() (Module, error) {
	env := o.settings()
	dirs, err := mounts(env)
	if err != nil {
		return Module{}, err
	}
	host := HostConfig{
		// The name of a volume, which the engine gives the owner that the image wants.
		Binds: []string{"registry-cache:" + dataDir},
		// It needs nothing but its volume.
		ReadonlyRootfs: true, CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges:true"},
	}
	for _, dir := range dirs {
		host.Binds = append(host.Binds, dir+":"+dir+":ro")
	}
	if o.Direct {
		host.PortBindings = map[string][]PortBinding{"8000/tcp": {{strconv.Itoa(o.Port)}}}
	}
	return Module{Version: "1.0", StartupOrder: 2, Image: o.Image, Create: logged(host), Env: env}, nil
}

// proxy is the API proxy. It starts after what it passes requests on to.
func (o Options) proxy() Module {
	env := map[string]string{"NGINX_DEFAULT_PORT": strconv.Itoa(o.Port)}
	if o.runsRegistry() {
		env["DOCKER_REQUEST_ROUTE_ADDRESS"] = registryModule + ":8000"
	}
	if o.Blob {
		env["BLOB_UPLOAD_ROUTE_ADDRESS"] = blobModule + ":11002"
	}
	return Module{Version: "1.0", StartupOrder: 4, Image: proxyImage, Create: logged(HostConfig{PortBindings: published(o.Port)}), Env: env}
}

// metrics is the metrics collector of Azure Monitor (github.com/Azure/iotedge,
// edge-modules/metrics-collector).
func (o Options) metrics() Module {
	endpoints := []string{"http://edgeHub:9600/metrics", "http://edgeAgent:9600/metrics"}
	if o.runsRegistry() {
		endpoints = append(endpoints, "http://"+registryModule+":5001/metrics")
	}
	env := map[string]string{
		"ResourceId": placeholder(hubResource), "MetricsEndpointsCSV": strings.Join(endpoints, ","), "ScrapeFrequencyInSecs": "300",
	}
	if o.Layer == Top {
		env["UploadTarget"] = "AzureMonitor"
		env["LogAnalyticsWorkspaceId"], env["LogAnalyticsSharedKey"] = placeholder(workspaceID), placeholder(workspaceKey)
	} else {
		env["UploadTarget"] = "IotMessage" // there is no way to Azure Monitor but through edgeHub
	}
	return Module{Version: "1.0", StartupOrder: 5, Image: metricsImage, Create: logged(HostConfig{}), Env: env}
}

// credentials are those of the container engine: on the top for the registry that has
// registry-module itself, which nobody else can give, and below for the parent.
func (o Options) credentials() map[string]Credential {
	if o.Layer != Top {
		if o.Anonymous {
			return nil
		}
		address := upstreamHost + ":" + strconv.Itoa(o.Port)
		return map[string]Credential{"upstream": {o.login(), placeholder(upstreamPassword), address}}
	}
	host, _, _ := strings.Cut(o.Image, "/")
	n, known := o.remotes()[host]
	if !known {
		return nil
	}
	number := ""
	if n > 1 {
		number = "_" + strconv.Itoa(n)
	}
	user := yamlValue(o.settings()[proxyPrefix+"USERNAME"+number])
	if user == "" {
		return nil
	}
	return map[string]Credential{registryModule: {user, placeholder(proxyPrefix + "PASSWORD" + number), host}}
}

// logged returns the options of a container whose log cannot fill the disk.
func logged(host HostConfig) CreateOptions {
	host.LogConfig = &LogConfig{Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "3"}}
	return CreateOptions{HostConfig: &host}
}

// published are ports of the container at the same ports of the host.
func published(ports ...int) map[string][]PortBinding {
	bindings := map[string][]PortBinding{}
	for _, port := range ports {
		bindings[strconv.Itoa(port)+"/tcp"] = []PortBinding{{strconv.Itoa(port)}}
	}
	return bindings
}

// notes say what has to be known of m and the options.
func (o Options) notes(m Manifest) []string {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if o.Layered {
		note("This is a layered deployment: the device also needs a base deployment with edgeAgent and edgeHub, which the form without --layered has.")
	}
	if o.Layer == Top {
		if n, ok := o.remotes()[mcr]; !ok || !isDefault(n, o.settings()) {
			note("%s is none of the default remotes: lower layers find edgeAgent, edgeHub and the API proxy under %s:%d/azureiotedge-... only if another one has them at its root.", mcr, upstreamHost, o.Port)
		}
	}
	if o.runsRegistry() {
		dirs, _ := mounts(o.settings()) // they were checked
		for _, dir := range dirs {
			note("Files in %s are read on the device: put them there before, readable for user 65532.", dir)
		}
		if o.Direct {
			note("Children verify this device by its name: API proxies cannot, which look for %s in its certificate. Write --direct or --cache for each layer below this one that has children.", o.ProxyModule)
		}
	}
	if o.Layer != Top && o.runsRegistry() && len(o.remotes()) == 0 {
		note("Clients that ask with ?ns= (containerd and podman mirrors) are answered for no registry: write --upstream for each that the top has.")
	}
	if o.Layer != Top && !o.Anonymous {
		note("This layer logs in at its parent with %s. Where the top lets everybody pull, write --anonymous.", placeholder(upstreamPassword))
	}
	if o.AutoEdgeCA {
		note("The CA of the device is made by IoT Edge itself, and no other device trusts it: for a device without children only.")
	}
	return slices.Clip(notes)
}

// isDefault tells whether names that say nothing of a registry are looked for at remote
// number n.
func isDefault(n int, env map[string]string) bool {
	if n > 1 {
		return env[proxyPrefix+"DEFAULT_"+strconv.Itoa(n)] == "true"
	}
	return env[proxyPrefix+"DEFAULT"] != "false"
}
