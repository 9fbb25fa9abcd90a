package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v2"
)

// prefix is what the names of all our variables begin with.
const prefix = "REGISTRY_"

// passwordFile is the customary name for proxy.passwordfile. The scheme cannot
// express it: it is a path into proxy.password.
const passwordFile = "PROXY_PASSWORD_FILE"

// decodeEnvironment overlays doc with the variables of environ. The name of a
// variable is the path to a field, in upper case and with underscores between
// the steps, and its value is YAML.
func (l *loader) decodeEnvironment(doc *document, environ []string) {
	// In order of their names, so that a variable for a whole section comes
	// before those for parts of it.
	environ = slices.Sorted(slices.Values(environ))
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		path, ours := strings.CutPrefix(name, prefix)
		if !ours || l.special(doc, path, value) {
			continue
		}
		a := assignment{loader: l, variable: name, value: value}
		switch err := a.to(reflect.ValueOf(doc).Elem(), "", strings.Split(path, "_")); {
		case errors.Is(err, errUnknown):
			l.warn("%s is not a setting and is ignored%s", name, didYouMean(name, variables("REGISTRY_", reflect.TypeFor[document]())))
		case err != nil:
			l.problem(Problem{Text: fmt.Sprintf("%s: %v", name, err)})
		}
	}
}

// special handles variables that are no path to a field.
func (l *loader) special(doc *document, path, value string) bool {
	switch path {
	case passwordFile:
		doc.Proxy.PasswordFile = value
		return true
	case "CONFIGURATION_PATH", "VERSION":
		return true // the first is read already, and the second is the file's
	}
	// Kubernetes and container links announce a service called "registry" by
	// such variables. They are no mistake of who configures this program.
	for _, announced := range []string{"SERVICE_", "PORT_", "ENV_"} {
		if strings.HasPrefix(path, announced) {
			return true
		}
	}
	if path == "PORT" || path == "NAME" {
		return true
	}
	if setting, number, ok := numbered(path); ok {
		l.problem(Problem{
			Key:      "proxy." + strings.ToLower(setting),
			Variable: prefix + path,
			Text: fmt.Sprintf("is for remote number %s, but only one remote is supported by this version: "+
				"use REGISTRY_PROXY_%s, or run one registry-module for each remote", number, setting),
		})
		return true
	}
	return false
}

// numbered splits a path such as PROXY_REMOTEURL_2 into the setting and the
// number of the remote.
func numbered(path string) (setting, number string, ok bool) {
	path, ok = strings.CutPrefix(path, "PROXY_")
	at := strings.LastIndexByte(path, '_')
	if !ok || at < 0 {
		return "", "", false
	}
	setting, number = path[:at], path[at+1:]
	if _, err := strconv.ParseUint(number, 10, 32); err != nil {
		return "", "", false
	}
	fields := fieldsOf(reflect.TypeFor[proxySection]())
	i := slices.IndexFunc(fields, func(f field) bool { return f.variable == setting })
	// A number after a list is the position in it.
	ok = setting == "PASSWORD_FILE" || i >= 0 && fields[i].typ.Kind() == reflect.String
	return setting, number, ok
}

// errUnknown means that a variable leads nowhere.
var errUnknown = errors.New("not a setting")

// assignment is the setting of one value by one variable.
type assignment struct {
	loader   *loader
	variable string
	value    string
}

// to sets what steps lead to from v, which is settable and whose key is key.
// Values that cannot be decoded are reported to the loader and are no error.
func (a assignment) to(v reflect.Value, key string, steps []string) error {
	if len(steps) == 0 {
		a.set(v, key)
		return nil
	}
	step, steps := steps[0], steps[1:]
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			if f.variable == step {
				return a.to(v.FieldByIndex(f.index), join(key, f.key), steps)
			}
		}
	case reflect.Pointer:
		if !isSection(v.Type().Elem()) {
			break
		}
		fresh := reflect.New(v.Type().Elem())
		if !v.IsNil() {
			fresh.Elem().Set(v.Elem())
		}
		if err := a.to(fresh.Elem(), key, append([]string{step}, steps...)); err != nil {
			return err
		}
		v.Set(fresh)
		return nil
	case reflect.Map:
		return a.toEntry(v, key, step, steps)
	case reflect.Slice:
		return a.toElement(v, key, step, steps)
	case reflect.Interface:
		return a.toAny(v, key, append([]string{step}, steps...))
	}
	return errUnknown
}

// toEntry sets something in the entry of the map v that step names, in any
// case, or in a new one.
func (a assignment) toEntry(v reflect.Value, key, step string, steps []string) error {
	k := reflect.ValueOf(strings.ToLower(step))
	elem := reflect.New(v.Type().Elem()).Elem()
	for _, have := range v.MapKeys() {
		if name := fmt.Sprint(have.Interface()); strings.ToUpper(name) == step {
			k = have
			elem.Set(v.MapIndex(have))
			break
		}
	}
	if err := a.to(elem, join(key, fmt.Sprint(k.Interface())), steps); err != nil {
		return err
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	v.SetMapIndex(k, elem)
	return nil
}

// toElement sets something in the element of the slice v whose index step is.
// The index after the last one appends.
func (a assignment) toElement(v reflect.Value, key, step string, steps []string) error {
	i, err := strconv.Atoi(step)
	if err != nil || i < 0 {
		return errUnknown
	}
	if i > v.Len() {
		return fmt.Errorf("there is no element %d before it: number the elements from 0 on, without gaps", i-1)
	}
	// A copy, because what an interface holds cannot be changed in place.
	fresh := reflect.MakeSlice(v.Type(), max(v.Len(), i+1), max(v.Len(), i+1))
	reflect.Copy(fresh, v)
	if err := a.to(fresh.Index(i), join(key, step), steps); err != nil {
		return err
	}
	v.Set(fresh)
	return nil
}

// toAny sets something in what the interface v holds. An empty one becomes a
// mapping, of the type that package yaml gives to those in a file.
func (a assignment) toAny(v reflect.Value, key string, steps []string) error {
	inner := reflect.New(reflect.TypeFor[map[any]any]()).Elem()
	if !v.IsNil() {
		inner = reflect.New(v.Elem().Type()).Elem()
		inner.Set(v.Elem())
	}
	if err := a.to(inner, key, steps); err != nil {
		return err
	}
	v.Set(inner)
	return nil
}

// set decodes the variable's value into v.
func (a assignment) set(v reflect.Value, key string) {
	l := a.loader
	// Lines are for what the file says.
	delete(l.lines, key)
	known := len(l.problems)
	l.decodeLeaf(v, key, func(out any) error { return yaml.Unmarshal([]byte(a.value), out) })
	for _, p := range l.problems[known:] {
		p.Variable = a.variable
		if p.Value == "" {
			p.Value = shown(key, a.value)
		}
	}
	// YAML has surprises for who thinks of plain text: comments after " #",
	// "null" and "~". Quotes are how to avoid them, so are no surprise.
	plain := strings.TrimSpace(a.value)
	if v.Kind() == reflect.String && len(l.problems) == known && v.String() != plain && !strings.ContainsAny(plain[:1], `"'`) {
		l.warn("%s (%s) is read as YAML, where it means something else than its plain text: put it in single quotes", a.variable, key)
	}
}
