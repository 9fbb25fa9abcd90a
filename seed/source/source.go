package source

import (
	"fmt"
	"io"
	"strings"

	"registry-module/seed"
)

// Kind is a format that names images.
type Kind string

// The formats. They are told from each other by what is in them, and not by the names of
// files.
const (
	// List has an image in each line. Empty lines are left out, and what follows a # at
	// the beginning of a line or behind a space. A list of texts in YAML or JSON is one,
	// too.
	List Kind = "list"
	// IoTEdge is a deployment manifest of Azure IoT Edge, a layered deployment, or a
	// template for one.
	IoTEdge Kind = "iotedge"
	// Compose is a file by the Compose Specification.
	Compose Kind = "compose"
	// Kubernetes are objects of Kubernetes, as helm template prints them.
	Kubernetes Kind = "kubernetes"
	// SeedFile is what this program has for it.
	SeedFile Kind = "seed file"
)

// String implements [fmt.Stringer].
func (k Kind) String() string { return string(k) }

// Limits of what is read.
const (
	// DefaultMaxSize is the size of a document where [Options] do not say. A seed file of
	// all that a site has is a thousand times smaller.
	DefaultMaxSize = 10 << 20
	// MaxImages is how many different images a document can name.
	MaxImages = 100_000
)

// Options is how a document is read. The zero value works.
type Options struct {
	// Lookup returns what a placeholder such as ${VARIABLE} stands for. With nil, none
	// stands for anything.
	Lookup func(variable string) (value string, ok bool)

	// CheckTags and CheckSchedule say what is wrong with a choice of tags and with a cron
	// expression, as the continuation of a sentence, so that it is reported with its
	// line. With nil they are checked for their form only.
	CheckTags     func(seed.Tags) error
	CheckSchedule func(expression string) error

	// MaxSize is how many bytes a document can have; 0 is DefaultMaxSize.
	MaxSize int64
}

// Document is what a document names.
type Document struct {
	Kind Kind
	// Wants are in the order of the document, each once. There can be none, with a
	// warning, in manifests.
	Wants []seed.Want
	// Schedule has the cron expressions of a seed file: minute, hour, day of the month,
	// month, day of the week, in local time.
	Schedule []string
	// Prune is whether what a seed file no longer names is to be unpinned; nil where it
	// does not say.
	Prune *bool
	// Warnings say what is left out. Each has the name of the document.
	Warnings []string
}

// Read reads a document, whose name is for messages. All that is wrong comes in one error,
// a line each, with the place; the document is empty then. What a message quotes are
// images and names, and nothing else of the document or of the variables: there are
// passwords in both.
func Read(name string, content io.Reader, o Options) (Document, error) {
	if o.MaxSize <= 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.Lookup == nil {
		o.Lookup = func(string) (string, bool) { return "", false }
	}
	text, err := readText(content, o.MaxSize)
	if err != nil {
		return Document{}, fmt.Errorf("%s: %w", name, err)
	}
	r := newReader(name, o)
	r.read(text)
	if err := r.failed(); err != nil {
		return Document{}, err
	}
	return r.finish(), nil
}

// read finds out which format text is in, and reads it.
func (r *reader) read(text string) {
	first, line := firstLine(text)
	switch {
	case first == "":
		r.bad(place{}, "is empty: write images, one in a line")
	case strings.HasPrefix(first, "{"), strings.HasPrefix(first, "["), strings.HasPrefix(first, "//"), strings.HasPrefix(first, "/*"):
		docs, err := parseJSON(text)
		if err != nil {
			// In YAML there can be braces, too, and what is in them need not be quoted.
			var asYAML error
			if docs, asYAML = parseYAML(text); asYAML != nil {
				r.unreadable("JSON", text, err)
				return
			}
		}
		r.documents(docs)
	case structured(first):
		docs, err := parseYAML(text)
		if err != nil {
			r.unreadable("YAML", text, err)
			return
		}
		r.documents(docs)
	default:
		r.list(text, line)
	}
}

// documents reads documents of YAML or JSON, all of which are of one format.
func (r *reader) documents(docs []*node) {
	kinds := make([]Kind, len(docs))
	var full []*node
	for i, d := range docs {
		kinds[i] = r.kindOf(d)
		if d.kind == null {
			continue
		}
		full = append(full, d)
		if r.doc.Kind == "" || kinds[i] == Kubernetes {
			r.doc.Kind = kinds[i]
		}
	}
	switch {
	case len(full) == 0:
		r.bad(place{}, "is empty: write images, one in a line")
	case r.doc.Kind == Kubernetes:
		r.kubernetes(docs, kinds)
	case len(full) > 1:
		r.bad(place{line: full[1].line}, "begins another document, and only objects of Kubernetes can be several in a file: put it into a file of its own")
	case r.doc.Kind == List:
		r.items(full[0])
	case r.doc.Kind == IoTEdge:
		r.iotEdge(full[0])
	case r.doc.Kind == Compose:
		r.compose(full[0])
	case r.doc.Kind == SeedFile:
		r.seedFile(full[0])
	default:
		r.unknown("it is YAML or JSON")
	}
}

// kindOf returns the format of a document, or nothing.
func (r *reader) kindOf(d *node) Kind {
	has := func(key string) bool { return d.last(key) != nil }
	switch {
	case d.kind == sequence && len(d.items) > 0 && d.items[0].kind == scalar:
		return List
	case d.kind != mapping:
		return ""
	case has("modulesContent"), d.last("content").last("modulesContent") != nil:
		return IoTEdge
	case has("apiVersion") && has("kind"):
		return Kubernetes
	case has("services"), has("include"):
		return Compose
	case has("images"), has("schedule"), has("prune"), has("platforms"):
		return SeedFile
	}
	return ""
}

// unknown reports a document that is of none of the formats. Why says why it is no list.
func (r *reader) unknown(why string) {
	r.bad(place{}, "is in none of the formats that are known: "+
		"no list of images (%s), "+
		"no deployment manifest of IoT Edge (it has no modulesContent), "+
		"no compose file (no services), "+
		"no manifest of Kubernetes (no apiVersion and kind; charts are rendered with helm template), "+
		"no seed file (no images)", why)
}

// unreadable reports what could not be parsed.
func (r *reader) unreadable(format, text string, err error) {
	at, hint := place{}, ""
	if p, ok := err.(*parseError); ok {
		at.line = p.line
	}
	switch {
	case strings.Contains(text, "{{") && strings.Contains(text, "}}"):
		hint = "; it looks like a template: render it first, for example with helm template"
	case format == "JSON" && strings.Contains(text, "${"):
		hint = "; placeholders such as ${VARIABLE} have to be in quotation marks"
	}
	r.bad(at, "is not readable as %s: %v%s", format, err, hint)
}
