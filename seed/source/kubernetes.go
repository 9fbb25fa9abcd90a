package source

import (
	"cmp"
	"strings"
)

// inKubernetes are the placeholders of manifests that go through envsubst.
var inKubernetes = placeholders{}

// kubernetes reads objects of Kubernetes. An image is what is called image at any depth,
// in objects of any kind: containers of all sorts, image volumes, and custom resources. Of
// containers it has to be one. Elsewhere it can be something else, which is said and left
// out.
func (r *reader) kubernetes(docs []*node, kinds []Kind) {
	w := walker{reader: r, seen: map[*node]bool{}}
	for i, d := range docs {
		switch {
		case d.kind == null:
		case kinds[i] == Kubernetes:
			w.object(d, "")
		default:
			r.warn(place{line: d.line}, "document %d is no object of Kubernetes and is left out", i+1)
		}
	}
}

// walker goes through objects, each node once.
type walker struct {
	*reader
	seen map[*node]bool
}

// object reads an object, or those of a list. Those need not say of which kind they are.
func (w *walker) object(o *node, kind string) {
	if own, _ := o.last("kind").string(); own != "" {
		kind = own
	}
	if items := o.last("items"); items != nil && items.kind == sequence && strings.HasSuffix(kind, "List") {
		for _, item := range items.items {
			if !w.step(1) || w.full() {
				return
			}
			if item.kind == mapping {
				w.object(item, strings.TrimSuffix(kind, "List"))
			}
		}
		return
	}
	at := place{o.line, objectName(o, kind)}
	switch kind {
	case "Secret", "CustomResourceDefinition":
		return // what is called image there is none, and the former is nobody's business
	case "Kustomization":
		if version, _ := o.last("apiVersion").string(); strings.HasPrefix(version, "kustomize.config.k8s.io/") {
			w.warn(at, "is no object that has images: render it first with kubectl kustomize")
			return
		}
	}
	w.walk(o, at, true, false)
}

// objectName is how an object is called in messages.
func objectName(o *node, kind string) string {
	metadata := o.last("metadata")
	name, _ := metadata.last("name").string()
	if name == "" {
		name, _ = metadata.last("generateName").string()
	}
	if namespace, _ := metadata.last("namespace").string(); namespace != "" {
		name = namespace + "/" + name
	}
	return strings.TrimSpace(shown(cmp.Or(kind, "object")) + " " + shown(name))
}

// walk looks for images in n. Top is for an object as a whole, and container for one of
// a pod.
func (w *walker) walk(n *node, at place, top, container bool) {
	if n.kind != mapping && n.kind != sequence || w.seen[n] || w.full() {
		return
	}
	w.seen[n] = true
	if n.kind == sequence {
		for _, item := range n.items {
			w.walk(item, at, false, false)
		}
		return
	}
	for i := 0; i+1 < len(n.items); i += 2 {
		key, value := n.items[i].text, n.items[i+1]
		at := place{n.items[i].line, at.what}
		switch {
		case key == "metadata", top && key == "status":
			// Labels and what was, no images that are wanted.
		case key == "containers" || key == "initContainers" || key == "ephemeralContainers":
			w.containers(value, at)
		case key == "env":
			w.environment(value, at)
		case key == "image" || strings.HasSuffix(key, "Image") || key == "imageName":
			w.imageField(key, value, at, container)
		default:
			w.walk(value, at, false, false)
		}
	}
}

// containers reads the containers of a pod.
func (w *walker) containers(list *node, at place) {
	if list.kind != sequence || w.seen[list] {
		w.walk(list, at, false, false)
		return
	}
	w.seen[list] = true
	for _, c := range list.items {
		what := "container"
		if name, _ := c.last("name").string(); name != "" {
			what += " " + shown(name)
		}
		w.walk(c, at.below(c.line, what), false, true)
	}
}

// environment reads the variables by which operators are told which images to use.
func (w *walker) environment(list *node, at place) {
	if list.kind != sequence || w.seen[list] {
		w.walk(list, at, false, false)
		return
	}
	w.seen[list] = true
	for _, e := range list.items {
		name, _ := e.last("name").string()
		value, ok := e.last("value").string()
		if ok && value != "" && strings.HasPrefix(name, "RELATED_IMAGE") {
			w.perhaps(value, at.below(e.line, "variable "+shown(name)))
		}
	}
}

// imageField reads the value of a field that is called as images are.
func (w *walker) imageField(key string, value *node, at place, container bool) {
	text, isText := value.string()
	switch {
	case container && key == "image" && isText && text != "":
		w.image(text, inKubernetes, at)
	case container && key == "image" && value.kind == scalar && !isText:
		w.bad(at, "image is not text: put it in quotation marks")
	case isText && text != "" && (key == "image" || certainly(text)):
		w.perhaps(text, at)
	case value.kind == mapping:
		if reference, ok := value.last("reference").string(); ok {
			w.perhaps(reference, at)
		} else if image := w.parts(value, at); image != "" {
			w.perhaps(image, at)
		} else {
			w.walk(value, at, false, false)
		}
	default:
		w.walk(value, at, false, false)
	}
}

// parts puts an image together that custom resources, and values of charts in them, have
// in parts.
func (w *walker) parts(n *node, at place) string {
	// A tag such as 1.10 is a number in YAML, and meant as it is written.
	part := func(key string) string {
		if v := n.last(key); v != nil && v.kind == scalar {
			return strings.TrimSpace(v.text)
		}
		return ""
	}
	image := part("repository")
	if image == "" {
		return ""
	}
	if registry := part("registry"); registry != "" {
		image = registry + "/" + image
	}
	tag, dgst := part("tag"), part("digest")
	if tag == "" && dgst == "" {
		if _, tag, dgst := cut(image); tag == "" && dgst == "" {
			w.warn(at, "%q has no tag, which is the chart's to choose: it is left out; render the chart with helm template", shownImage(image))
			return ""
		}
	}
	if tag != "" {
		image += ":" + tag
	}
	if dgst != "" {
		image += "@" + dgst
	}
	return image
}

// perhaps records an image where it can be something else, too.
func (w *walker) perhaps(text string, at place) {
	if strings.Contains(text, "${") {
		w.image(text, inKubernetes, at)
		return
	}
	text = strings.TrimSpace(text)
	if err := checkImage(text); err != nil {
		w.warn(at, "%q is left out: it %v", shownImage(text), err)
		return
	}
	w.image(text, inKubernetes, at)
}

// certainly tells whether a text is an image and hardly anything else: it has a path and a
// tag or digest.
func certainly(text string) bool {
	name, tag, dgst := cut(text)
	return strings.Contains(name, "/") && (tag != "" || dgst != "") && checkImage(text) == nil
}
