package deployment

import (
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Limits of desired properties ("Understand and use device twins in IoT Hub").
const (
	maxTwin      = 32 << 10
	maxTwinText  = 4 << 10
	maxTwinKey   = 1 << 10
	maxTwinDepth = 10
	maxTwinInt   = 4503599627370495
	minTwinInt   = -4503599627370496
)

// twin checks the limits that IoT Hub has for desired properties.
func (v *validator) twin(path string, n *node) {
	if size := v.twinValue(path, n, 0); size > maxTwin {
		v.bad(path, "is %d bytes of desired properties: IoT Hub takes %d for one module", size, maxTwin)
	}
}

// twinValue checks a value, and returns how much of the limit it takes, as IoT Hub counts.
func (v *validator) twinValue(path string, n *node, depth int) int {
	if n == nil || v.full() {
		return 0
	}
	switch n.kind {
	case boolean:
		return 4
	case number:
		if i, err := strconv.ParseInt(n.text, 10, 64); err == nil && (i > maxTwinInt || i < minTwinInt) {
			v.bad(path, "is a number that IoT Hub does not take: write it as text")
		}
		return 8
	case text:
		if len(n.text) > maxTwinText {
			v.bad(path, "has %d bytes: text can have %d", len(n.text), maxTwinText)
		}
		return counted(n.text)
	case array, object:
	default:
		return 0
	}
	if depth > maxTwinDepth {
		v.bad(path, "is more than %d levels deep", maxTwinDepth)
		return 0
	}
	size, seen := 0, map[string]bool{}
	for i, member := range n.members {
		at := path
		if n.kind == object {
			key := n.keys[i]
			at = join(path, key)
			if problem := keyProblem(key); problem != "" {
				v.bad(at, "%s", problem)
			}
			if seen[key] {
				v.twice(path, key)
			}
			seen[key] = true
			size += counted(key)
		}
		size += v.twinValue(at, member, depth+1)
	}
	return size
}

// keyProblem is what is wrong with a key in desired properties.
func keyProblem(key string) string {
	switch {
	case key == "":
		return "has an empty name"
	case len(key) > maxTwinKey:
		return "has a name of more than 1 KB"
	case strings.ContainsAny(key, ".$ "):
		return "has a name that IoT Hub does not take: leave out '.', '$' and spaces"
	case strings.ContainsFunc(key, unicode.IsControl):
		return "has a control character in its name"
	}
	return ""
}

// counted is how long IoT Hub takes text to be: bytes, without control characters.
func counted(s string) int {
	n := len(s)
	for _, r := range s {
		if unicode.IsControl(r) {
			n -= len(string(r))
		}
	}
	return n
}

// hub checks $edgeHub in the full form.
func (v *validator) hub(n *node) {
	if !v.object("$edgeHub", n, []string{desired}, []string{desired}) {
		return
	}
	d, path := n.get(desired), "$edgeHub"
	if d == nil || !v.object(path, d, []string{"schemaVersion", "routes"}, []string{"schemaVersion", "routes", "storeAndForwardConfiguration"}) {
		return
	}
	schema, ok := v.text(join(path, "schemaVersion"), d.get("schemaVersion"))
	if ok && !schemaVersion.MatchString(schema) {
		v.bad(join(path, "schemaVersion"), "is not one that edgeHub reads: write %s", hubSchema)
	}
	if routes := d.get("routes"); routes != nil && v.object(join(path, "routes"), routes, nil, nil) {
		for i, name := range routes.keys {
			at := join(join(path, "routes"), name)
			v.route(at, name, routes.members[i])
			if schema == "1.0" && routes.members[i].kind == object {
				v.bad(at, "is an object, which schemaVersion 1.0 does not have: write %s", hubSchema)
			}
		}
	}
	if keep := d.get("storeAndForwardConfiguration"); keep != nil {
		at := join(path, "storeAndForwardConfiguration")
		if v.object(at, keep, []string{"timeToLiveSecs"}, []string{"timeToLiveSecs", "storeLimits"}) {
			v.integer(join(at, "timeToLiveSecs"), keep.get("timeToLiveSecs"), 1<<31-1)
		}
	}
	v.twin(path, d)
}

// route checks one route, which is text or an object.
func (v *validator) route(path, name string, n *node) {
	v.name(path, name)
	if n.kind == object {
		if !v.object(path, n, []string{"route"}, []string{"route", "priority", "timeToLiveSecs"}) {
			return
		}
		v.integer(join(path, "priority"), n.get("priority"), 9)
		v.integer(join(path, "timeToLiveSecs"), n.get("timeToLiveSecs"), maxUint32)
		path, n = join(path, "route"), n.get("route")
	}
	if s, ok := v.text(path, n); ok && !isRoute(s) {
		v.bad(path, `is no route: write FROM /messages/* INTO $upstream, or INTO BrokeredEndpoint("/modules/NAME/inputs/INPUT"), with WHERE and a condition before INTO if not all messages are meant`)
	}
}

var (
	// routeForm is what comes before a condition (edge-hub, Route.g4).
	routeForm = regexp.MustCompile(`(?is)^\s*(?:SELECT\s*\*\s*)?FROM\s*((?:/(?:\*|[^\s()<>@,;:\\"/\[\]?={}]+))+)\s*(\bWHERE\b.*)?$`)
	// sinkForm is what comes behind INTO.
	sinkForm = regexp.MustCompile(`(?is)^\s*(?:\$upstream|BrokeredEndpoint\s*\(\s*["']/modules/[^/"']+/inputs/[^/"']+["']\s*\))\s*$`)
	// quoted is text in a condition, in which words mean nothing.
	quoted = regexp.MustCompile(`(?s)"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'`)
	into   = regexp.MustCompile(`(?i)\bINTO\b`)
)

// isRoute tells whether s has the form of a route. What a condition says is not looked at.
func isRoute(s string) bool {
	masked := quoted.ReplaceAllStringFunc(s, func(q string) string { return `"` + strings.Repeat("x", len(q)-2) + `"` })
	all := into.FindAllStringIndex(masked, -1)
	if len(all) == 0 {
		return false
	}
	at := all[len(all)-1]
	before := routeForm.FindStringSubmatch(masked[:at[0]])
	if before == nil || before[2] != "" && strings.TrimSpace(before[2][len("WHERE"):]) == "" {
		return false
	}
	return sinkForm.MatchString(s[at[1]:])
}
