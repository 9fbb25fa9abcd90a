package source

import "strings"

// desired is the key of what a module is to be, in manifests.
const desired = "properties.desired"

// iotEdge reads a deployment manifest (https://learn.microsoft.com/azure/iot-edge/module-composition).
// What the agent is to run can be one value, properties.desired, or, in a layered
// deployment, values whose keys are paths to it, such as properties.desired.modules.app.
// Nothing else is looked at: there are credentials.
func (r *reader) iotEdge(doc *node) {
	content := doc.last("modulesContent")
	if content == nil {
		content = doc.last("content").last("modulesContent") // as it is exported
	}
	agent := r.field(content, "$edgeAgent")
	if agent.absent() {
		// A layered deployment can be for other modules' twins only.
		return
	}
	if agent.kind != mapping {
		r.bad(place{line: agent.line}, "modulesContent.$edgeAgent is no object: write \"%s\" with modules in it", desired)
		return
	}
	for _, e := range r.entries(agent) {
		path, ok := strings.CutPrefix(e.key.text, desired)
		if !ok {
			continue
		}
		layered := path != ""
		switch group, name, _ := strings.Cut(strings.TrimPrefix(path, "."), "."); {
		case group == "":
			r.modules(r.field(e.value, "systemModules"), false)
			r.modules(r.field(e.value, "modules"), false)
		case group != "modules" && group != "systemModules":
		case name == "":
			r.modules(e.value, layered)
		default:
			r.layer(name, e)
		}
	}
}

// layer reads a value of a layered deployment below modules, whose key ends in path: the
// name of a module, which can have dots, or that and what is below it.
func (r *reader) layer(path string, e entry) {
	if name, ok := strings.CutSuffix(path, ".settings.image"); ok {
		r.module(place{e.key.line, "module " + shown(name)}, e.value)
		return
	}
	settings, name := e.value, path
	if cut, ok := strings.CutSuffix(path, ".settings"); ok {
		name = cut
	} else {
		settings = r.field(e.value, "settings")
	}
	if image := r.field(settings, "image"); image != nil {
		r.module(place{image.line, "module " + shown(name)}, image)
	}
}

// modules reads modules by their names.
func (r *reader) modules(modules *node, layered bool) {
	if modules.absent() {
		return
	}
	if modules.kind != mapping {
		r.bad(place{line: modules.line}, "the modules are no object: write \"NAME\": {\"settings\": {\"image\": ...}}")
		return
	}
	for _, e := range r.entries(modules) {
		at := place{e.key.line, "module " + shown(e.key.text)}
		image := r.field(r.field(e.value, "settings"), "image")
		switch {
		case image != nil:
			at.line = image.line
			r.module(at, image)
		case !layered && !e.value.absent():
			r.warn(at, "has no settings.image and is left out")
		}
		if r.full() {
			return
		}
	}
}

// module reads the image of a module.
func (r *reader) module(at place, image *node) {
	text, ok := image.string()
	if !ok {
		r.bad(at, "settings.image is not text: write an image, for example \"mcr.microsoft.com/azureiotedge-hub:1.5\"")
		return
	}
	r.image(text, placeholders{bare: true}, at)
}
