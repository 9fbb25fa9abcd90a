package deployment

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
)

// Manifest is a deployment manifest: what a device is to run.
type Manifest struct {
	Runtime Runtime
	// EdgeAgent and EdgeHub are the system modules.
	EdgeAgent, EdgeHub Module
	// Modules are all others, by name.
	Modules map[string]Module
	// Routes are those of messages between modules and the cloud, by name.
	Routes map[string]string
	// TimeToLive is for how many seconds edgeHub keeps messages while nobody takes them.
	TimeToLive int
	// Twins are the desired properties of modules other than the system's, by name.
	Twins map[string]map[string]any
}

// Runtime is what the agent has to know of the container engine.
type Runtime struct {
	// MinDockerVersion is the version of the engine's API that is needed at least.
	MinDockerVersion string
	// Credentials are for registries, by a name that says nothing to the engine.
	Credentials map[string]Credential
}

// Credential is what the engine logs in with at a registry.
type Credential struct {
	Username string `json:"username"`
	Password string `json:"password"`
	// Address is the registry's, as images have it: with $upstream for the parent's host.
	Address string `json:"address"`
}

// Module is one container.
type Module struct {
	// Version is for people. Empty, it is left out.
	Version string
	// StartupOrder says which modules start first: those with lower numbers. edgeAgent is
	// always the first, and has none.
	StartupOrder int
	Image        string
	Create       CreateOptions
	// Env are environment variables.
	Env map[string]string
}

// Values that are the same for all that is made here.
const (
	// agentSchema is the first with startupOrder, and hubSchema the first with
	// priorities of routes.
	agentSchema = "1.1"
	hubSchema   = "1.1"

	typeDocker    = "docker"
	statusRunning = "running"
	restartAlways = "always"
	pullOnCreate  = "on-create"

	desired = "properties.desired"
)

// moduleJSON is a module as a manifest has it.
type moduleJSON struct {
	Version         string               `json:"version,omitempty"`
	Type            string               `json:"type"`
	Status          string               `json:"status,omitempty"`
	RestartPolicy   string               `json:"restartPolicy,omitempty"`
	ImagePullPolicy string               `json:"imagePullPolicy,omitempty"`
	StartupOrder    *int                 `json:"startupOrder,omitempty"`
	Settings        map[string]string    `json:"settings"`
	Env             map[string]valueJSON `json:"env,omitempty"`
}

type valueJSON struct {
	Value string `json:"value"`
}

// json returns m as a manifest has it. edgeAgent has no status: it is what reads it.
func (m Module) json(isAgent bool) (moduleJSON, error) {
	settings, err := m.Create.settings()
	if err != nil {
		return moduleJSON{}, err
	}
	settings["image"] = m.Image
	j := moduleJSON{Version: m.Version, Type: typeDocker, Settings: settings}
	if !isAgent {
		order := m.StartupOrder
		j.Status, j.RestartPolicy, j.ImagePullPolicy, j.StartupOrder = statusRunning, restartAlways, pullOnCreate, &order
	}
	if len(m.Env) > 0 {
		j.Env = map[string]valueJSON{}
		for name, value := range m.Env {
			j.Env[name] = valueJSON{value}
		}
	}
	return j, nil
}

// Full returns the manifest in the form for one device, or for a base deployment.
func (m Manifest) Full() ([]byte, error) {
	agent, err := m.EdgeAgent.json(true)
	if err != nil {
		return nil, err
	}
	hub, err := m.EdgeHub.json(false)
	if err != nil {
		return nil, err
	}
	hub.Version, agent.Version = "", "" // system modules have none
	modules := map[string]moduleJSON{}
	for name, module := range m.Modules {
		if modules[name], err = module.json(false); err != nil {
			return nil, err
		}
	}
	type properties map[string]any
	content := map[string]properties{
		"$edgeAgent": {desired: properties{
			"schemaVersion": agentSchema,
			"runtime": properties{"type": typeDocker, "settings": properties{
				"minDockerVersion":    m.Runtime.MinDockerVersion,
				"registryCredentials": notNil(m.Runtime.Credentials),
			}},
			"systemModules": map[string]moduleJSON{"edgeAgent": agent, "edgeHub": hub},
			"modules":       modules,
		}},
		"$edgeHub": {desired: properties{
			"schemaVersion":                hubSchema,
			"routes":                       notNil(m.Routes),
			"storeAndForwardConfiguration": properties{"timeToLiveSecs": m.TimeToLive},
		}},
	}
	for name, twin := range m.Twins {
		content[name] = properties{desired: twin}
	}
	return indented(map[string]any{"modulesContent": content})
}

// Layered returns what the manifest adds to that of a base deployment, in the form of a
// layered deployment: modules, routes and credentials by their paths, and no system
// modules, which only a base deployment may have.
func (m Manifest) Layered() ([]byte, error) {
	agent, hub := map[string]any{}, map[string]any{}
	for name, module := range m.Modules {
		j, err := module.json(false)
		if err != nil {
			return nil, err
		}
		agent[desired+".modules."+name] = j
	}
	for name, credential := range m.Runtime.Credentials {
		agent[desired+".runtime.settings.registryCredentials."+name] = credential
	}
	for name, route := range m.Routes {
		hub[desired+".routes."+name] = route
	}
	content := map[string]any{"$edgeAgent": agent}
	if len(hub) > 0 {
		content["$edgeHub"] = hub
	}
	for name, twin := range m.Twins {
		content[name] = map[string]any{desired: twin}
	}
	return indented(map[string]any{"content": map[string]any{"modulesContent": content}})
}

// Images returns the images that the manifest names, system modules first.
func (m Manifest) Images() []string {
	images := []string{m.EdgeAgent.Image, m.EdgeHub.Image}
	for _, name := range slices.Sorted(maps.Keys(m.Modules)) {
		images = append(images, m.Modules[name].Image)
	}
	return images
}

// indented is the JSON of v for people, who are to find $upstream and not its escapes.
func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// notNil is m, or an empty map: JSON has no null where an object is wanted.
func notNil[M ~map[K]V, K comparable, V any](m M) M {
	if m == nil {
		return M{}
	}
	return m
}
