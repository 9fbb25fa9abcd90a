package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v2"
)

// prefix is what the names of all our variables begin with.
const prefix = "REGISTRY_"

// decodeEnvironment overlays doc with the variables of environ. The name of a
// variable is the path to a field, in upper case and with underscores between
// the steps, and its value is YAML. After the path to a setting of a remote there
// can be the number of that remote.
func (l *loader) decodeEnvironment(doc *document, environ []string) {
	// In order of their names, so that a variable for a whole section comes
	// before those for parts of it, and numbered ones after all that are for the
	// whole list of remotes.
	var ofRemotes []assignment
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(entry, "=")
		if name == runtimeLevelVariable {
			l.runtimeLevel = value
			continue
		}
		path, ours := strings.CutPrefix(name, prefix)
		if !ours || notSettings(path) {
			continue
		}
		a := assignment{loader: l, variable: name, value: value}
		if a.isNumbered() {
			ofRemotes = append(ofRemotes, a)
			continue
		}
		if a.file = true; a.isNumbered() {
			ofRemotes = append(ofRemotes, a)
			continue
		}
		a.file = false
		err := a.toDocument(doc)
		if _, ok := cutFile(path); ok && errors.Is(err, errUnknown) {
			a.file = true
			err = a.toDocument(doc)
		}
		a.refused(err)
	}
	for _, a := range ofRemotes {
		a.refused(a.toRemote(doc))
	}
}

// refused says that a variable cannot be used, unless err is nil.
func (a assignment) refused(err error) {
	switch {
	case errors.Is(err, errUnknown):
		a.loader.warn("%s is not a setting and is ignored%s", a.variable, didYouMean(a.variable, variablesLike(a.variable)))
	case err != nil:
		a.loader.problem(Problem{Text: fmt.Sprintf("%s: %v", a.variable, err)})
	}
}

// notSettings tells whether a variable is for others, or read elsewhere.
func notSettings(path string) bool {
	switch path {
	case "CONFIGURATION_PATH", "VERSION":
		return true // the first is read already, and the second is the file's
	case "PORT", "NAME":
		return true // as below
	}
	// Kubernetes and container links announce a service called "registry" by
	// such variables, and one called "registry-module". They are no mistake of who
	// configures this program.
	for _, announced := range []string{"SERVICE_", "PORT_", "ENV_", "MODULE_"} {
		if strings.HasPrefix(path, announced) {
			return true
		}
	}
	return false
}

// uniform returns path as the scheme has it, where it has a customary name for a
// setting of a file: PROXY_PASSWORD_FILE is the path to something in
// proxy.password.
func uniform(path string) string {
	for _, secret := range []string{"PROXY_PASSWORD", "PROXY_IDENTITYTOKEN"} {
		if rest, ok := strings.CutPrefix(path, secret+"_FILE"); ok && (rest == "" || rest[0] == '_') {
			return secret + "FILE" + rest
		}
	}
	return path
}

// customary is the reverse of uniform.
func customary(path string) string {
	switch path {
	case "PROXY_PASSWORDFILE", "PROXY_IDENTITYTOKENFILE":
		return strings.TrimSuffix(path, "FILE") + "_FILE"
	}
	return path
}

// numbered splits a path such as PROXY_EXEC_COMMAND_2 into that of the setting of
// a remote and the number of the remote.
func numbered(path string) (setting, number string, ok bool) {
	setting, number, ok = cutNumber(path)
	steps, isProxy := strings.CutPrefix(setting, "PROXY_")
	return setting, number, ok && isProxy && leads(reflect.TypeFor[remoteSection](), strings.Split(steps, "_"))
}

// cutNumber cuts the number off the end of the name of a variable.
func cutNumber(name string) (before, number string, ok bool) {
	at := strings.LastIndexByte(name, '_')
	if at < 0 {
		return name, "", false
	}
	before, number = name[:at], name[at+1:]
	return before, number, number != "" && strings.Trim(number, "0123456789") == ""
}

// leads tells whether there is something in a section at the end of steps.
func leads(t reflect.Type, steps []string) bool {
	if len(steps) == 0 {
		return true
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return isSection(t) && slices.ContainsFunc(fieldsOf(t), func(f field) bool {
		return f.variable == steps[0] && leads(f.typ, steps[1:])
	})
}

// variablesLike returns names of variables that name can be a slip of the finger
// for: those of all settings, and with its number where it has one.
func variablesLike(name string) []string {
	names := variables("REGISTRY_", reflect.TypeFor[document]())
	if _, number, ok := cutNumber(name); ok {
		for _, setting := range variables("REGISTRY_PROXY", reflect.TypeFor[remoteSection]()) {
			names = append(names, setting+"_"+number)
		}
	}
	for _, name := range slices.Clone(names) {
		before, number, ok := cutNumber(name)
		if !ok {
			before, number = name, ""
		}
		if last := before[strings.LastIndexByte(before, '_')+1:]; slices.Contains(inFiles, strings.ToLower(last)) {
			names = append(names, before+fileSuffix+strings.TrimSuffix("_"+number, "_"))
		}
	}
	return names
}

// errUnknown means that a variable leads nowhere.
var errUnknown = errors.New("not a setting")

// assignment is the setting of one value by one variable.
type assignment struct {
	loader   *loader
	variable string
	value    string
	// file tells that value is the path of a file that has what is to be set.
	file bool
}

// path is the name of the variable for what is set, as the scheme has it, without the
// prefix.
func (a assignment) path() string {
	path := strings.TrimPrefix(a.variable, prefix)
	if a.file {
		if direct, ok := cutFile(path); ok {
			return direct
		}
	}
	return uniform(path)
}

// isNumbered tells whether the variable is for a remote with a number.
func (a assignment) isNumbered() bool {
	_, _, ok := numbered(a.path())
	return ok
}

// toDocument sets what a variable without a number is for.
func (a assignment) toDocument(doc *document) error {
	return a.to(reflect.ValueOf(doc).Elem(), "", strings.Split(a.path(), "_"))
}

// toRemote sets what a numbered variable is for.
func (a assignment) toRemote(doc *document) error {
	path, digits, _ := numbered(a.path())
	first := prefix + customary(path)
	if a.file {
		first += fileSuffix
	}
	n, err := strconv.Atoi(digits)
	switch {
	case err == nil && n == 0:
		return fmt.Errorf("the number at the end is that of a remote, and they begin with 1: write %s for the first remote, "+
			"and all elements of a list into one variable, with commas in between", first)
	case err != nil || n > mostRemotes:
		return fmt.Errorf("the number at the end is that of a remote, and they end with %d: write a lower one", mostRemotes)
	case strconv.Itoa(n) != digits:
		return fmt.Errorf("the number at the end has a 0 in front: write %s_%d", first, n)
	}
	section := &doc.Proxy.remoteSection
	if n > 1 {
		if more := n - 1 - len(doc.Proxy.Remotes); more > 0 {
			doc.Proxy.Remotes = append(doc.Proxy.Remotes, make([]remoteSection, more)...)
		}
		section = &doc.Proxy.Remotes[n-2]
	}
	return a.to(reflect.ValueOf(section).Elem(), remoteKey(n), strings.Split(strings.TrimPrefix(path, "PROXY_"), "_"))
}

// to sets what steps lead to from v, which is settable and whose key is key.
// Values that cannot be decoded are reported to the loader and are no error.
func (a assignment) to(v reflect.Value, key string, steps []string) error {
	if len(steps) == 0 {
		switch {
		case !a.file:
			a.set(v, key)
		case !mayBeInFile(key, v.Type()):
			return errUnknown
		default:
			a.setFromFile(v, key)
		}
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
		if v.Type() != reflect.TypeFor[list]() {
			return a.toElement(v, key, step, steps)
		}
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

// claim notes that the variable is what sets key, and returns false where another one
// does, which is a problem.
func (a assignment) claim(key string) bool {
	l := a.loader
	if other, ok := l.variables[key]; ok && other != a.variable {
		l.problem(Problem{Key: key, Variable: a.variable, Text: "is set, and " + other + " too, for the same: keep only one of them"})
		return false
	}
	l.variables[key] = a.variable
	// Lines are for what the file says.
	maps.DeleteFunc(l.lines, func(k string, _ int) bool { return k == key || strings.HasPrefix(k, key+".") })
	return true
}

// set decodes the variable's value into v.
func (a assignment) set(v reflect.Value, key string) {
	l := a.loader
	if !a.claim(key) {
		return
	}
	if v.Type() == reflect.TypeFor[list]() {
		v.Set(reflect.ValueOf(listOf(a.value)))
		return
	}
	known := len(l.problems)
	l.decodeLeaf(v, key, func(out any) error { return yaml.Unmarshal([]byte(a.value), out) })
	for _, p := range l.problems[known:] {
		p.Variable = a.variable
		// What has parts is not shown: there is no telling what they are.
		if p.Value == "" && !strings.ContainsAny(a.value, "{[\n") {
			p.Value = shown(key, a.value)
		}
	}
	// YAML has surprises for who thinks of plain text: comments after " #",
	// "null" and "~". Quotes are how to avoid them, so are no surprise.
	plain := strings.TrimSpace(a.value)
	if v.Kind() == reflect.String && len(l.problems) == known && v.String() != plain && !strings.ContainsAny(firstOf(plain), `"'`) {
		l.warn("%s (%s) is read as YAML, where it means something else than its plain text: put it in single quotes", a.variable, key)
	}
}
