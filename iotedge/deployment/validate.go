package deployment

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is something for which Azure would refuse a manifest, or the device a part of it.
type Problem struct {
	// Path is where, for example $edgeAgent.modules.app.settings.image.
	Path string
	// Text says what is wrong, and what to write.
	Text string
}

// String is both in a line.
func (p Problem) String() string {
	if p.Path == "" {
		return p.Text
	}
	return p.Path + ": " + p.Text
}

// maxProblems is how many problems are told.
const maxProblems = 100

// Validate returns what is wrong with a deployment manifest, in its order; nothing where it
// can be applied. It takes the full form and the layered one, by themselves or below
// "content", as they are exported. Placeholders such as ${NAME} count as values.
//
// No value is in a problem but names, images and routes: there are credentials.
func Validate(manifest []byte) []Problem {
	var v validator
	root, err := parse(manifest)
	switch {
	case err != nil:
		v.bad("", "%w", err)
	case root.kind != object:
		v.bad("", "it is %s: write an object with modulesContent", root.kind)
	default:
		v.root(root)
	}
	return v.problems
}

// validator collects problems.
type validator struct {
	problems []Problem
	// ports are which module has which port of the host.
	ports map[string]string
}

func (v *validator) bad(path, format string, args ...any) {
	p := Problem{path, fmt.Errorf(format, args...).Error()}
	switch n := len(v.problems); {
	case slices.Contains(v.problems, p):
		// The parts of a manifest are parts of a twin, too.
	case n < maxProblems-1:
		v.problems = append(v.problems, p)
	case n == maxProblems-1:
		v.problems = append(v.problems, Problem{Text: "there is more: mend this first"})
	}
}

// full tells that no more problems are told.
func (v *validator) full() bool { return len(v.problems) >= maxProblems }

// join is the path of key below path.
func join(path, key string) string {
	if path == "" {
		return shown(key)
	}
	return path + "." + shown(key)
}

// object tells whether n is an object, and whether it has what is required and nothing but
// what is allowed, both for all where they are nil.
func (v *validator) object(path string, n *node, required, allowed []string) bool {
	switch {
	case n == nil:
		v.bad(path, "is missing")
		return false
	case n.kind != object:
		v.bad(path, "is %s: write an object", n.kind)
		return false
	}
	for _, key := range required {
		if n.get(key) == nil {
			v.bad(join(path, key), "is missing")
		}
	}
	seen := map[string]bool{}
	for _, key := range n.keys {
		if v.full() {
			return false
		}
		if seen[key] {
			v.twice(path, key)
		}
		seen[key] = true
		if allowed != nil && !slices.Contains(allowed, key) {
			v.bad(join(path, key), "is not known here: there can be %s", strings.Join(allowed, ", "))
		}
	}
	return true
}

// twice records that a key is there twice.
func (v *validator) twice(path, key string) {
	v.bad(join(path, key), "is there twice, and only the last one counts: keep one")
}

// text tells whether n, if it is there, is text.
func (v *validator) text(path string, n *node) (string, bool) {
	if n == nil {
		return "", false
	}
	if n.kind != text {
		v.bad(path, "is %s: write text, in quotes", n.kind)
		return "", false
	}
	return n.text, true
}

// oneOf tells whether n, if it is there, is one of some words.
func (v *validator) oneOf(path string, n *node, words ...string) {
	if s, ok := v.text(path, n); ok && !slices.Contains(words, s) {
		v.bad(path, "is none of %s: write one of these", strings.Join(words, ", "))
	}
}

// root checks the whole.
func (v *validator) root(root *node) {
	content := root.get("modulesContent")
	path := "modulesContent"
	if wrapped := root.get("content"); wrapped != nil && content == nil {
		content, path = wrapped.get("modulesContent"), "content.modulesContent"
		v.object("content", wrapped, nil, []string{"modulesContent", "$schema"})
	} else {
		v.object("", root, nil, []string{"modulesContent", "$schema"})
	}
	if !v.object(path, content, nil, nil) {
		return
	}
	agent, hub := content.get("$edgeAgent"), content.get("$edgeHub")
	if isLayered(agent) || isLayered(hub) || agent == nil && hub == nil {
		v.layered(agent, hub)
	} else {
		v.agent(agent)
		v.hub(hub)
	}
	modules := 2
	for i, name := range content.keys {
		if name == "$edgeAgent" || name == "$edgeHub" {
			continue
		}
		modules++
		if !moduleName.MatchString(name) {
			v.bad(join(path, name), "is no name of a module: write letters, digits, _ and -, up to 128 of them")
			continue
		}
		v.moduleTwin(name, content.members[i])
	}
	if declared := 2 + countModules(agent); max(modules, declared) > maxModules {
		v.bad(path, "there are %d modules: a device can have %d with edgeAgent and edgeHub", max(modules, declared), maxModules)
	}
}

// maxModules is how many modules IoT Hub has for a device.
const maxModules = 50

// countModules is how many modules the agent is to run.
func countModules(agent *node) int {
	if agent == nil || agent.kind != object {
		return 0
	}
	count := 0
	for i, key := range agent.keys {
		switch {
		case key == desired:
			if modules := agent.members[i].get("modules"); modules != nil {
				count += len(modules.keys)
			}
		case strings.HasPrefix(key, desired+".modules."):
			count++
		}
	}
	return count
}

// isLayered tells whether n has keys that are paths.
func isLayered(n *node) bool {
	return n != nil && slices.ContainsFunc(n.keys, func(key string) bool { return strings.HasPrefix(key, desired+".") })
}

// layered checks what a layered deployment has for the system's twins.
func (v *validator) layered(agent, hub *node) {
	const (
		modules     = desired + ".modules."
		credentials = desired + ".runtime.settings.registryCredentials."
		routes      = desired + ".routes."
	)
	if agent != nil && v.object("$edgeAgent", agent, nil, nil) {
		for i, key := range agent.keys {
			member, path := agent.members[i], join("$edgeAgent", key)
			switch {
			case strings.HasPrefix(key, modules):
				v.module(path, strings.TrimPrefix(key, modules), member)
			case strings.HasPrefix(key, credentials):
				v.credential(path, strings.TrimPrefix(key, credentials), member)
			case key == desired:
				v.bad(path, "is in one manifest with paths below it: write all of it as paths, or none")
			case strings.HasPrefix(key, desired+".systemModules"):
				v.bad(path, "system modules belong in the base deployment, not into a layered one")
			case !strings.HasPrefix(key, desired+"."):
				v.bad(path, "is not known here: write %sNAME", modules)
			}
			v.twin(path, member)
		}
	}
	if hub != nil && v.object("$edgeHub", hub, nil, nil) {
		for i, key := range hub.keys {
			member, path := hub.members[i], join("$edgeHub", key)
			switch {
			case strings.HasPrefix(key, routes):
				v.route(path, strings.TrimPrefix(key, routes), member)
			case key == desired:
				v.bad(path, "is in one manifest with paths below it: write all of it as paths, or none")
			case !strings.HasPrefix(key, desired+"."):
				v.bad(path, "is not known here: write %sNAME", routes)
			}
			v.twin(path, member)
		}
	}
}

// moduleTwin checks the desired properties of a module.
func (v *validator) moduleTwin(name string, n *node) {
	if !v.object(name, n, nil, nil) {
		return
	}
	for i, key := range n.keys {
		path := join(name, key)
		switch {
		case key == desired && n.members[i].kind != object:
			v.bad(path, "is %s: write an object", n.members[i].kind)
		case key == desired, strings.HasPrefix(key, desired+"."):
			v.twin(path, n.members[i])
		default:
			v.bad(path, "is not known here: write %s", desired)
		}
	}
	if len(n.keys) == 0 {
		v.bad(name, "has no %s", desired)
	}
}
