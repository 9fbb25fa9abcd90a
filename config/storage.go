package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
)

// finishStorage makes sure that the embedded app can start with the storage
// section: it panics on values of the wrong type.
func (l *loader) finishStorage(doc *document, c *Config) {
	var drivers []string
	for _, name := range slices.Sorted(maps.Keys(doc.Storage)) {
		parameters := section{l, "storage." + name, doc.Storage[name]}
		switch name {
		case "filesystem":
			drivers = append(drivers, name)
			parameters.known("rootdirectory", "maxthreads")
		case "cache":
			l.finishBlobDescriptorCache(parameters)
		case "delete":
			parameters.known("enabled")
			check[bool](parameters, "enabled")
		case "redirect":
			parameters.known("disable")
			if !check[bool](parameters, "disable") {
				delete(doc.Storage, name) // the app wants the key where there is the section
			}
		case "tag":
			parameters.known("concurrencylimit")
			check[int](parameters, "concurrencylimit")
			if n, _ := parameters.values["concurrencylimit"].(int); n < 0 {
				parameters.bad("concurrencylimit", n, "is negative: write for example 8")
			}
		case "maintenance":
			l.finishMaintenance(parameters)
		default:
			drivers = append(drivers, name)
			l.bad("storage."+name, "", "is a storage driver that is not supported: only filesystem is%s",
				didYouMean(name, []string{"filesystem", "cache", "delete", "redirect", "tag", "maintenance"}))
		}
	}
	if len(drivers) > 1 {
		l.bad("storage", "", "%q is more than one storage driver: keep only filesystem", strings.Join(drivers, " "))
	}
	filesystem := doc.Storage["filesystem"]
	if filesystem == nil {
		filesystem = configuration.Parameters{}
	}
	c.DataDir = DefaultDataDir
	if root := filesystem["rootdirectory"]; root != nil && root != "" {
		c.DataDir = fmt.Sprint(root) // a number is a fine name, too
	}
	filesystem["rootdirectory"] = c.DataDir
	if doc.Storage == nil {
		doc.Storage = choice{}
	}
	doc.Storage["filesystem"] = filesystem
}

func (l *loader) finishBlobDescriptorCache(s section) {
	s.known("blobdescriptor", "blobdescriptorsize", "layerinfo")
	for _, name := range []string{"blobdescriptor", "layerinfo"} {
		if s.values[name] == "redis" {
			l.warn("%s: redis is not used: what is kept is indexed in the data directory", join(s.key, name))
			s.values[name] = "inmemory"
		}
	}
	check[int](s, "blobdescriptorsize")
}

func (l *loader) finishMaintenance(s section) {
	s.known("uploadpurging", "readonly")
	if readonly, ok := s.sub("readonly"); ok {
		readonly.known("enabled")
		check[bool](readonly, "enabled")
	}
	purging, ok := s.sub("uploadpurging")
	if !ok {
		return
	}
	purging.known("enabled", "age", "interval", "dryrun")
	check[bool](purging, "enabled")
	if purging.values["enabled"] == false {
		return
	}
	check[bool](purging, "dryrun")
	for _, name := range []string{"age", "interval"} {
		if check[string](purging, name) {
			l.duration(join(purging.key, name), purging.values[name].(string), 0)
		}
	}
	for _, name := range []string{"age", "interval", "dryrun"} {
		if purging.values[name] == nil {
			purging.bad(name, "", "is missing, but needed where uploadpurging has others: write age: 168h, interval: 24h and dryrun: false")
		}
	}
}

// section is a part of the configuration without a type.
type section struct {
	loader *loader
	key    string
	values configuration.Parameters
}

// known warns of values that nothing reads.
func (s section) known(names ...string) {
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		if !slices.Contains(names, name) {
			s.loader.warn("%s is not a setting and is ignored%s", join(s.key, name), didYouMean(name, names))
		}
	}
}

// bad records that the value with that name is wrong.
func (s section) bad(name string, value any, format string, args ...any) {
	s.loader.bad(join(s.key, name), fmt.Sprint(value), format, args...)
}

// check tells whether there is a value with that name. It records a problem
// where it is not of type T.
func check[T any](s section, name string) bool {
	value := s.values[name]
	if value == nil {
		return false
	}
	if _, ok := value.(T); !ok {
		var want string
		switch any(*new(T)).(type) {
		case bool:
			want = "a yes or no: write true or false, without quotes"
		case int:
			want = "a whole number: write for example 100"
		default:
			want = "text: put it in quotes"
		}
		s.bad(name, value, "is not %s", want)
		return false
	}
	return true
}

// sub returns the section below s with that name. It makes the value a mapping
// of the one type that the embedded app takes.
func (s section) sub(name string) (section, bool) {
	value, ok := s.values[name]
	if !ok {
		return section{}, false
	}
	below := section{s.loader, join(s.key, name), configuration.Parameters{}}
	switch m := value.(type) {
	case map[any]any:
		for k, v := range m {
			below.values[fmt.Sprint(k)] = v
		}
		return below, true
	case nil:
		s.values[name] = map[any]any{}
		return below, true
	}
	s.bad(name, value, "is not a section: write its settings below it")
	return section{}, false
}
