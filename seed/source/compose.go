package source

// inCompose are the placeholders of compose files (Compose Specification, "Interpolation").
var inCompose = placeholders{bare: true, escaped: true}

// compose reads a compose file (https://github.com/compose-spec/compose-spec). Services of
// all profiles are taken.
func (r *reader) compose(doc *node) {
	if include := r.field(doc, "include"); !include.absent() {
		r.warn(place{line: include.line}, "what it includes is not read: give those files, too, with -f")
	}
	services := r.field(doc, "services")
	if services.absent() {
		return
	}
	if services.kind != mapping {
		r.bad(place{line: services.line}, "services is no mapping: write NAME: below it, and image: below that")
		return
	}
	for _, e := range r.entries(services) {
		r.service(place{e.key.line, "service " + shown(e.key.text)}, e.value)
		if r.full() {
			return
		}
	}
}

// service reads the image of a service, and those that it has as volumes.
func (r *reader) service(at place, service *node) {
	if service.absent() {
		r.warn(at, "is empty and is left out")
		return
	}
	if service.kind != mapping {
		r.bad(at, "is no mapping: write image: below it")
		return
	}
	r.serviceImage(at, service)
	volumes := r.field(service, "volumes")
	if volumes.absent() || volumes.kind != sequence || !r.step(len(volumes.items)) {
		return
	}
	for _, v := range volumes.items {
		if kind, _ := r.field(v, "type").string(); kind != "image" {
			continue
		}
		if image, ok := r.field(v, "source").string(); ok {
			r.image(image, inCompose, at.below(v.line, "volume"))
		}
	}
}

func (r *reader) serviceImage(at place, service *node) {
	image, extends := r.field(service, "image"), r.field(service, "extends")
	file, _ := r.field(extends, "file").string()
	isBuilt := !r.field(service, "build").absent()
	if !image.absent() {
		at.line = image.line
		if text, ok := image.string(); !ok {
			r.bad(at, "image is not text: put it in quotation marks")
		} else {
			r.image(text, inCompose, at)
			if isBuilt {
				r.warn(at, "is built from a Dockerfile, too: its image has to be in its registry to be seeded")
			}
		}
		return
	}
	switch {
	case file != "":
		r.warn(at, "extends a service of %q, which is not read: give that file, too, with -f", shown(file))
	case isBuilt:
		r.warn(at, "is built from a Dockerfile and names no image: it is left out")
	case !extends.absent(): // a service of this file, whose image is taken anyway
	default:
		r.warn(at, "has no image and is left out")
	}
}
