package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"go.yaml.in/yaml/v2"
)

// node is a part of a YAML document that is decoded later. It is nil inside for
// null.
type node struct{ decode func(any) error }

// UnmarshalYAML implements [yaml.Unmarshaler].
func (n *node) UnmarshalYAML(unmarshal func(any) error) error {
	n.decode = unmarshal
	return nil
}

// line returns the line of n in its document, or 0 where it is not known.
func (n node) line() int {
	if n.decode == nil {
		return 0
	}
	// The package does not tell positions, but its errors do; and no node is
	// both a mapping and a sequence.
	for _, impossible := range []any{new(map[string]node), new([]node)} {
		if line := lineOf(n.decode(impossible)); line > 0 {
			return line
		}
	}
	return 0
}

// text returns n where it is a scalar.
func (n node) text() (s string, ok bool) {
	if n.decode == nil {
		return "", false
	}
	err := n.decode(&s)
	return s, err == nil
}

// lineOf returns the line that an error of package yaml names, or 0.
func lineOf(err error) int {
	if err == nil {
		return 0
	}
	text := err.Error()
	if te, ok := errors.AsType[*yaml.TypeError](err); ok && len(te.Errors) > 0 {
		text = te.Errors[0]
	}
	var line int
	if n, _ := fmt.Sscanf(strings.TrimPrefix(text, "yaml: "), "line %d:", &line); n == 0 {
		return 0
	}
	return line
}

// decodeFile reads the text of a configuration file. It never returns nil: what
// could not be read is as if it were absent.
func (l *loader) decodeFile(text []byte) *document {
	doc := new(document)
	var top node
	if err := yaml.Unmarshal(text, &top); err != nil {
		l.problem(Problem{Line: lineOf(err), Text: "not readable as YAML: " + yamlReason(err)})
		return builtin()
	}
	var sections map[string]node
	if top.decode != nil {
		if err := top.decode(&sections); err != nil {
			l.problem(Problem{
				Line: max(1, lineOf(err)),
				Text: "not a configuration: write sections, beginning with \"version: 0.1\"",
			})
			return builtin()
		}
	}
	version, _ := sections["version"].text()
	if v := configuration.Version(version); v != configuration.CurrentVersion {
		l.lines["version"] = sections["version"].line()
		if version == "" {
			l.bad("version", "", "is missing in %s: write version: %s", l.source, configuration.CurrentVersion)
		} else {
			l.bad("version", version, "is not a version of the configuration that is known: write %s", configuration.CurrentVersion)
		}
	}
	delete(sections, "version")
	l.decodeSections(reflect.ValueOf(doc).Elem(), "", sections)
	doc.Version = configuration.CurrentVersion
	return doc
}

// decodeSections decodes each of nodes into the field of v with its name. Key
// is the name of v itself.
func (l *loader) decodeSections(v reflect.Value, key string, nodes map[string]node) {
	fields := fieldsOf(v.Type())
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == name })
		if i < 0 {
			var keys []string
			for _, f := range fields {
				keys = append(keys, f.key)
			}
			where := ""
			if line := nodes[name].line(); line > 0 {
				where = fmt.Sprintf(" in line %d", line)
			}
			l.warn("%s%s is not a setting and is ignored%s", join(key, name), where, didYouMean(name, keys))
			continue
		}
		l.decodeNode(v.FieldByIndex(fields[i].index), join(key, name), nodes[name])
	}
}

// decodeNode decodes n into v, which is the value of key.
func (l *loader) decodeNode(v reflect.Value, key string, n node) {
	if n.decode == nil {
		return // null leaves what is there, as in package yaml
	}
	l.lines[key] = n.line()
	switch t := v.Type(); {
	case t.Kind() == reflect.Pointer && isSection(t.Elem()):
		v.Set(reflect.New(t.Elem()))
		l.decodeNode(v.Elem(), key, n)
	case t.Kind() == reflect.Slice && isSection(t.Elem()):
		var elements []node
		if n.decode(&elements) != nil {
			l.bad(key, "", "is not a list: write its elements below it, each after a dash")
			return
		}
		v.Set(reflect.MakeSlice(t, len(elements), len(elements)))
		for i, e := range elements {
			l.decodeNode(v.Index(i), join(key, strconv.Itoa(i)), e)
		}
	case isSection(t):
		var nodes map[string]node
		if n.decode(&nodes) != nil {
			l.bad(key, "", "is not a section: write its settings below it")
			return
		}
		l.decodeSections(v, key, nodes)
	default:
		l.decodeLeaf(v, key, n.decode)
	}
}

// decodeLeaf sets v to what decode gives, as a whole: nothing remains of its
// earlier value.
func (l *loader) decodeLeaf(v reflect.Value, key string, decode func(any) error) {
	fresh := reflect.New(v.Type())
	text, isText := node{decode}.text()
	if err := decode(fresh.Interface()); err != nil {
		l.badLeaf(v.Type(), key, text, err)
		return
	}
	v.Set(fresh.Elem())
	// The stock registry takes bare numbers, too.
	value := fresh.Elem()
	if value.Kind() == reflect.Pointer && !value.IsNil() {
		value = value.Elem()
	}
	if d, ok := value.Interface().(time.Duration); ok && d != 0 && isText {
		if _, err := strconv.Atoi(text); err == nil {
			l.warn("%s (%s): %s has no unit and means nanoseconds: write for example %ss", l.variable(key), key, text, text)
		}
	}
}

// badLeaf says that the value of key, which is text where it is a scalar, is
// none of type t.
func (l *loader) badLeaf(t reflect.Type, key, text string, err error) {
	what := expected(t)
	if text == "" && !secret(key) {
		// It is no scalar: what is wrong can be deep inside.
		what += " (" + yamlReason(err) + ")"
	}
	l.bad(key, text, "is not %s", what)
}

// expected describes the values of a type.
func expected(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration](), reflect.TypeFor[*time.Duration]():
		return "a duration: write for example 30s, 5m or 1h"
	case reflect.TypeFor[configuration.Loglevel]():
		return "a log level: write error, warn, info or debug"
	case reflect.TypeFor[configuration.ClientAuth]():
		return "a way to ask for client certificates: write " + strings.Join([]string{
			configuration.ClientAuthRequestClientCert,
			configuration.ClientAuthRequireAnyClientCert,
			configuration.ClientAuthVerifyClientCertIfGiven,
			configuration.ClientAuthRequireAndVerifyClientCert,
		}, ", ")
	case reflect.TypeFor[configuration.Platforms]():
		return "a choice of platforms: write all, none or list"
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "a yes or no: write true or false"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "a whole number: write for example 100"
	case reflect.String:
		return "text that YAML can read: put it in single quotes"
	case reflect.Slice:
		return "a list: write for example [a, b]"
	}
	return "a section: write its settings as key: value"
}

// yamlReason returns an error of package yaml without prefixes, line numbers
// and the names of Go types, which mean nothing to who writes a configuration, and
// without what it quotes: that can be a secret, wherever somebody has put one.
func yamlReason(err error) string {
	text := err.Error()
	if te, ok := errors.AsType[*yaml.TypeError](err); ok && len(te.Errors) > 0 {
		text = te.Errors[0]
	}
	text = strings.TrimPrefix(text, "yaml: ")
	if lineOf(err) > 0 {
		_, text, _ = strings.Cut(text, ": ")
	}
	switch {
	case strings.HasPrefix(text, "unknown anchor "), strings.HasPrefix(text, "anchor "):
		return "a value begins with * or &: put it in single quotes"
	case strings.HasPrefix(text, "invalid map key"):
		return "a name is not text: put what is in braces in single quotes"
	case strings.HasPrefix(text, "key "), strings.HasPrefix(text, "field "):
		return "a name is there twice"
	}
	text, _, _ = strings.Cut(text, " into ")
	if from, to := strings.IndexByte(text, '`'), strings.LastIndexByte(text, '`'); from >= 0 {
		text = strings.TrimSpace(text[:from]) + text[to+1:]
	}
	return text
}

// join appends a name to the key of the section that it is in.
func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
