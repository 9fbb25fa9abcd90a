package deployment

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	// schemaVersion is what the system modules of today read: any minor version of 1.
	schemaVersion = regexp.MustCompile(`^1\.[0-9]{1,4}$`)
	// partKey is a part of createOptions, in the cases that the agent takes.
	partKey = regexp.MustCompile(`^(?i:createoptions)([0-9]*)$`)
	// hostAddress is one of a registry, for a container engine.
	hostAddress = regexp.MustCompile(`^\S+$`)
)

// agent checks $edgeAgent in the full form.
func (v *validator) agent(n *node) {
	if !v.object("$edgeAgent", n, []string{desired}, []string{desired}) {
		return
	}
	d, path := n.get(desired), "$edgeAgent"
	if d == nil {
		return
	}
	keys := []string{"schemaVersion", "runtime", "systemModules", "modules"}
	if !v.object(path, d, keys, keys) {
		return
	}
	schema, _ := v.text(join(path, "schemaVersion"), d.get("schemaVersion"))
	if d.get("schemaVersion") != nil && !schemaVersion.MatchString(schema) {
		v.bad(join(path, "schemaVersion"), "is not one that edgeAgent reads: write %s", agentSchema)
	}
	if runtime := d.get("runtime"); runtime != nil {
		v.runtime(join(path, "runtime"), runtime)
	}
	if system := d.get("systemModules"); system != nil {
		at, names := join(path, "systemModules"), []string{"edgeAgent", "edgeHub"}
		if v.object(at, system, names, names) {
			for i, name := range system.keys {
				v.module(join(at, name), name, system.members[i])
			}
		}
	}
	if modules := d.get("modules"); modules != nil && v.object(join(path, "modules"), modules, nil, nil) {
		for i, name := range modules.keys {
			v.module(join(join(path, "modules"), name), name, modules.members[i])
		}
	}
	if schema == "1.0" && hasOrder(d) {
		v.bad(join(path, "schemaVersion"), "is 1.0, which has no startupOrder: write %s", agentSchema)
	}
	v.twin(path, d)
}

// hasOrder tells whether a module has a startupOrder.
func hasOrder(d *node) bool {
	for _, group := range []string{"systemModules", "modules"} {
		if g := d.get(group); g != nil && slices.ContainsFunc(g.members, func(m *node) bool { return m.get("startupOrder") != nil }) {
			return true
		}
	}
	return false
}

// runtime checks what the agent has to know of the engine.
func (v *validator) runtime(path string, n *node) {
	if !v.object(path, n, []string{"type", "settings"}, []string{"type", "settings"}) {
		return
	}
	v.oneOf(join(path, "type"), n.get("type"), typeDocker)
	settings := n.get("settings")
	path = join(path, "settings")
	if settings == nil || !v.object(path, settings, nil, []string{"minDockerVersion", "loggingOptions", "registryCredentials"}) {
		return
	}
	v.text(join(path, "minDockerVersion"), settings.get("minDockerVersion"))
	v.text(join(path, "loggingOptions"), settings.get("loggingOptions"))
	if credentials := settings.get("registryCredentials"); credentials != nil {
		path = join(path, "registryCredentials")
		if v.object(path, credentials, nil, nil) {
			for i, name := range credentials.keys {
				v.credential(join(path, name), name, credentials.members[i])
			}
		}
	}
}

// credential checks one for a registry.
func (v *validator) credential(path, name string, n *node) {
	v.name(path, name)
	keys := []string{"username", "password", "address"}
	if !v.object(path, n, keys, keys) {
		return
	}
	for _, key := range keys {
		s, ok := v.text(join(path, key), n.get(key))
		if key != "address" || !ok {
			continue
		}
		filled := inBraces.ReplaceAllString(s, "x")
		switch {
		case !hostAddress.MatchString(s):
			v.bad(join(path, key), "is empty or has a space: write the registry as images have it")
		case strings.Contains(s, "://"):
			v.bad(join(path, key), "is a URL: write the registry as images have it, without https://")
		case strings.Contains(filled, upstreamHost) && !upstreamForm.MatchString(filled+"/"):
			v.bad(join(path, key), "$upstream needs its port behind it: write $upstream:%d", DefaultPort)
		}
	}
}

// name checks the name of a credential or a route.
func (v *validator) name(path, name string) {
	if name == "" || strings.ContainsAny(name, ".$# ") {
		v.bad(path, "is no name: leave out '.', '$', '#' and spaces")
	}
}

// module checks one module, of the system or not.
func (v *validator) module(path, name string, n *node) {
	required := []string{"type", "status", "restartPolicy", "settings"}
	allowed := []string{"version", "type", "status", "restartPolicy", "env", "settings", "imagePullPolicy", "startupOrder"}
	switch {
	case name == "edgeAgent":
		required = []string{"type", "settings"}
		allowed = []string{"type", "env", "settings", "imagePullPolicy"}
	case name == "edgeHub":
		allowed = slices.DeleteFunc(allowed, func(key string) bool { return key == "version" })
	case !moduleName.MatchString(name):
		v.bad(path, "is no name of a module: write letters, digits, _ and -, up to 128 of them")
	}
	if !v.object(path, n, required, allowed) {
		return
	}
	v.text(join(path, "version"), n.get("version"))
	v.oneOf(join(path, "type"), n.get("type"), typeDocker)
	v.oneOf(join(path, "status"), n.get("status"), statusRunning, "stopped")
	v.oneOf(join(path, "restartPolicy"), n.get("restartPolicy"), "never", "on-failure", "on-unhealthy", restartAlways)
	v.oneOf(join(path, "imagePullPolicy"), n.get("imagePullPolicy"), "never", pullOnCreate)
	v.integer(join(path, "startupOrder"), n.get("startupOrder"), maxUint32)
	v.env(join(path, "env"), n.get("env"))
	if settings := n.get("settings"); settings != nil {
		v.settings(join(path, "settings"), name, settings)
	}
}

const maxUint32 = 1<<32 - 1

// integer checks that n, if it is there, is one from 0 to most.
func (v *validator) integer(path string, n *node, most uint64) {
	if n == nil {
		return
	}
	if i, err := strconv.ParseUint(n.text, 10, 64); n.kind != number || err != nil || i > most {
		v.bad(path, "is no whole number from 0 to %d", most)
	}
}

// env checks environment variables.
func (v *validator) env(path string, n *node) {
	if n == nil || !v.object(path, n, nil, nil) {
		return
	}
	for i, name := range n.keys {
		at := join(path, name)
		if name == "" || strings.ContainsAny(name, "+#$. \t\r\n") {
			v.bad(at, "is no name of a variable: leave out '+', '#', '$', '.' and spaces")
		}
		if v.object(at, n.members[i], []string{"value"}, []string{"value"}) {
			if value := n.members[i].get("value"); value != nil && value.kind != text && value.kind != number && value.kind != boolean {
				v.bad(join(at, "value"), "is %s: write text, a number, true or false", value.kind)
			}
		}
	}
}

// settings checks the image of a module and how its container is made.
func (v *validator) settings(path, module string, n *node) {
	if !v.object(path, n, []string{"image"}, nil) {
		return
	}
	if image, ok := v.text(join(path, "image"), n.get("image")); ok {
		if err := checkImage(image); err != nil {
			v.bad(join(path, "image"), "%w", err)
		}
	}
	parts := map[int]string{}
	for i, key := range n.keys {
		at := join(path, key)
		m := partKey.FindStringSubmatch(key)
		switch {
		case key == "image":
			continue
		case m == nil:
			v.bad(at, "is not known here: there can be image, createOptions, createOptions01 ...")
			continue
		}
		part, ok := v.text(at, n.members[i])
		number, err := strconv.Atoi("0" + m[1])
		switch {
		case !ok:
			return
		case err != nil || number >= MaxParts || m[1] != "" && (len(m[1]) != 2 || number == 0):
			v.bad(at, "is no part of createOptions: they are createOptions, createOptions01, to createOptions%02d", MaxParts-1)
			return
		case units(part) > MaxPart:
			v.bad(at, "has %d characters: write at most %d, and go on in the next part", units(part), MaxPart)
		}
		parts[number] = part
	}
	var all []string
	for i := range len(parts) {
		part, ok := parts[i]
		if !ok {
			v.bad(join(path, partName(i)), "is missing, but a later part is there: number them without gaps")
			return
		}
		all = append(all, part)
	}
	v.createOptions(join(path, partName(0)), module, Join(all))
}

// createOptions checks options that were put together.
func (v *validator) createOptions(path, module, options string) {
	if strings.TrimSpace(options) == "" || strings.EqualFold(options, "null") {
		return // the agent takes that for none
	}
	n, err := parse([]byte(options))
	if err != nil {
		v.bad(path, "put together, they cannot be read: %w", err)
		return
	}
	if n.kind != object {
		v.bad(path, "put together, they are %s: write an object, as Docker's API has it", n.kind)
		return
	}
	var o struct {
		HostConfig struct {
			PortBindings map[string][]struct{ HostIP, HostPort json.RawMessage }
		}
	}
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		v.bad(path, "put together, they are not what Docker's API has: HostConfig.PortBindings is an object of lists of objects")
		return
	}
	for _, port := range slices.Sorted(maps.Keys(o.HostConfig.PortBindings)) {
		_, protocol, _ := strings.Cut(port, "/")
		for _, b := range o.HostConfig.PortBindings[port] {
			host := strings.Trim(string(b.HostPort), `"`)
			if host == "" || host == "0" || host == "null" {
				continue // any free one
			}
			key := fmt.Sprintf("%s/%s %s", host, protocol, b.HostIP)
			if other, taken := v.ports[key]; taken && other != module {
				v.bad(path, "port %s of the host is that of %s, too: only one of them would start", host, shown(other))
				continue
			}
			if v.ports == nil {
				v.ports = map[string]string{}
			}
			v.ports[key] = module
		}
	}
}
