package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
)

// Changed returns the keys of settings that c has otherwise than before, in order, and the
// paths of files that are a part of it and hold something else. A setting that was left out
// and is written now with the value that it has by default counts. Of a list of entries the
// keys have numbers, as in problems. There are no values in it.
func (c *Config) Changed(before *Config) []string {
	var changed []string
	if c.doc != nil && before.doc != nil {
		changed = differences(changed, "", reflect.ValueOf(*c.doc), reflect.ValueOf(*before.doc))
	}
	for path, sum := range c.Files {
		// What the file itself says is told by its settings.
		if was, ok := before.Files[path]; ok && was != sum && path != c.Source {
			changed = append(changed, path)
		}
	}
	slices.Sort(changed)
	return slices.Compact(changed)
}

// differences appends the keys below key of what a and b, of the same type, have otherwise.
func differences(to []string, key string, a, b reflect.Value) []string {
	switch {
	case a.Type() == reflect.TypeFor[[]remoteSection]():
		for i := range max(a.Len(), b.Len()) {
			to = differences(to, remoteKey(i+2), elementOf(a, i), elementOf(b, i))
		}
	case a.Kind() == reflect.Struct && isSection(a.Type()):
		for _, f := range fieldsOf(a.Type()) {
			to = differences(to, join(key, f.key), a.FieldByIndex(f.index), b.FieldByIndex(f.index))
		}
	case a.Kind() == reflect.Map:
		keys := make(map[string][2]reflect.Value)
		for side, m := range []reflect.Value{a, b} {
			for _, k := range m.MapKeys() {
				name := fmt.Sprint(k.Interface())
				pair := keys[name]
				pair[side] = m.MapIndex(k)
				keys[name] = pair
			}
		}
		for _, name := range slices.Sorted(maps.Keys(keys)) {
			switch pair := keys[name]; {
			case !pair[0].IsValid() || !pair[1].IsValid():
				to = append(to, join(key, name))
			default:
				to = differences(to, join(key, name), pair[0], pair[1])
			}
		}
	case a.Kind() == reflect.Slice && a.Type().Elem().Kind() == reflect.Struct && a.Len() == b.Len():
		for i := range a.Len() {
			to = differences(to, join(key, strconv.Itoa(i)), a.Index(i), b.Index(i))
		}
	case !reflect.DeepEqual(a.Interface(), b.Interface()):
		to = append(to, key)
	}
	return to
}

// elementOf is element i of a slice, or one without settings where that is not so long.
func elementOf(s reflect.Value, i int) reflect.Value {
	if i < s.Len() {
		return s.Index(i)
	}
	return reflect.Zero(s.Type().Elem())
}
