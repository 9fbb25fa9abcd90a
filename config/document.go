package config

import (
	"errors"
	"io"
	"reflect"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
	"go.yaml.in/yaml/v2"
)

// document is a configuration as it is written: the sections of
// [configuration.Configuration], with our keys added. Names of fields make up
// the names of variables, and their tags the keys in config.yml, so both have
// to be the stock ones; a test compares them.
type document struct {
	Version       configuration.Version                 `yaml:"version"`
	Log           logSection                            `yaml:"log"`
	Loglevel      configuration.Loglevel                `yaml:"loglevel,omitempty"`
	Storage       choice                                `yaml:"storage"`
	Auth          choice                                `yaml:"auth,omitempty"`
	Middleware    map[string][]configuration.Middleware `yaml:"middleware,omitempty"`
	HTTP          configuration.HTTP                    `yaml:"http,omitempty"`
	Notifications configuration.Notifications           `yaml:"notifications,omitempty"`
	Redis         configuration.Redis                   `yaml:"redis,omitempty"`
	Health        configuration.Health                  `yaml:"health,omitempty"`
	Catalog       configuration.Catalog                 `yaml:"catalog,omitempty"`
	Tags          configuration.Tags                    `yaml:"tags,omitempty"`
	Proxy         proxySection                          `yaml:"proxy,omitempty"`
	Validation    configuration.Validation              `yaml:"validation,omitempty"`
	Policy        configuration.Policy                  `yaml:"policy,omitempty"`

	// These are ours alone.
	Cache  cacheSection  `yaml:"cache,omitempty"`
	Seed   seedSection   `yaml:"seed,omitempty"`
	Bundle bundleSection `yaml:"bundle,omitempty"`

	Access  accessSection  `yaml:"access,omitempty"`
	IoTEdge iotEdgeSection `yaml:"iotedge,omitempty"`
	Admin   adminSection   `yaml:"admin,omitempty"`
}

// logSection has the keys of [configuration.Log], and ours in accesslog.
type logSection struct {
	AccessLog    accessLogSection        `yaml:"accesslog,omitempty"`
	Level        configuration.Loglevel  `yaml:"level,omitempty"`
	Formatter    string                  `yaml:"formatter,omitempty"`
	Fields       map[string]any          `yaml:"fields,omitempty"`
	Hooks        []configuration.LogHook `yaml:"hooks,omitempty"`
	ReportCaller bool                    `yaml:"reportcaller,omitempty"`
}

// accessLogSection says which requests have a line in the log.
type accessLogSection struct {
	Disabled bool   `yaml:"disabled,omitempty"`
	Sample   string `yaml:"sample,omitempty"`
}

// stock returns what the app has to know of it.
func (s logSection) stock() configuration.Log {
	return configuration.Log{
		AccessLog: configuration.AccessLog{Disabled: s.AccessLog.Disabled},
		Level:     s.Level, Formatter: s.Formatter, Fields: s.Fields, Hooks: s.Hooks, ReportCaller: s.ReportCaller,
	}
}

// adminSection says what can be done at the admin address.
type adminSection struct {
	TokenFile string `yaml:"tokenfile,omitempty"`
	PProf     bool   `yaml:"pprof,omitempty"`
}

// proxySection has the keys of [configuration.Proxy] and ours: what is for all
// remotes, the first remote, and the list of the others.
type proxySection struct {
	remoteSection `yaml:",inline"`

	Offline           bool   `yaml:"offline,omitempty"`
	OfflineSchedule   string `yaml:"offlineschedule,omitempty"`
	CacheWriteTimeout string `yaml:"cachewritetimeout,omitempty"`
	// Remotes has remote number 2 at index 0, and an element without settings for
	// a number that is left out.
	Remotes []remoteSection `yaml:"remotes,omitempty"`
}

// remoteSection is one remote. Durations, sizes and numbers are text here, so that
// a problem can show what was written, so that a number without unit is an error
// and not nanoseconds, and so that 0 is not the same as nothing.
type remoteSection struct {
	RemoteURL string `yaml:"remoteurl"`

	Username          string                    `yaml:"username"`
	Password          string                    `yaml:"password"`
	PasswordFile      string                    `yaml:"passwordfile,omitempty"`
	IdentityToken     string                    `yaml:"identitytoken,omitempty"`
	IdentityTokenFile string                    `yaml:"identitytokenfile,omitempty"`
	DockerConfig      string                    `yaml:"dockerconfig,omitempty"`
	Exec              *configuration.ExecConfig `yaml:"exec,omitempty"`
	AllowedRealms     list                      `yaml:"allowedrealms,omitempty"`

	Alias          string `yaml:"alias,omitempty"`
	Default        *bool  `yaml:"default,omitempty"`
	Namespaces     list   `yaml:"namespaces,omitempty"`
	Allow          list   `yaml:"allow,omitempty"`
	Deny           list   `yaml:"deny,omitempty"`
	DeniedIsAbsent bool   `yaml:"deniedisabsent,omitempty"`

	TTL    string `yaml:"ttl,omitempty"`
	TagTTL string `yaml:"tagttl,omitempty"`

	TagRules             list   `yaml:"tagrules,omitempty"`
	StaleWhileRevalidate string `yaml:"stalewhilerevalidate,omitempty"`
	MaxStale             string `yaml:"maxstale,omitempty"`
	NegativeTTL          string `yaml:"negativettl,omitempty"`

	CA          string `yaml:"ca,omitempty"`
	Certificate string `yaml:"certificate,omitempty"`
	Key         string `yaml:"key,omitempty"`
	Insecure    bool   `yaml:"insecure,omitempty"`
	HTTPProxy   string `yaml:"httpproxy,omitempty"`
	TrustBundle *bool  `yaml:"trustbundle,omitempty"`

	PassThrough      bool   `yaml:"passthrough,omitempty"`
	PassThroughTTL   string `yaml:"passthroughttl,omitempty"`
	PassThroughGrace string `yaml:"passthroughgrace,omitempty"`

	Connections    string `yaml:"connections,omitempty"`
	MaxConnections string `yaml:"maxconnections,omitempty"`
	Bandwidth      string `yaml:"bandwidth,omitempty"`
	StallTimeout   string `yaml:"stalltimeout,omitempty"`
	RetryFor       string `yaml:"retryfor,omitempty"`
}

// cacheSection says what is kept, and what is fetched that nobody waits for.
type cacheSection struct {
	MaxSize    string `yaml:"maxsize,omitempty"`
	MinFree    string `yaml:"minfree,omitempty"`
	Bandwidth  string `yaml:"bandwidth,omitempty"`
	Prefetch   bool   `yaml:"prefetch,omitempty"`
	Referrers  bool   `yaml:"referrers,omitempty"`
	Resume     bool   `yaml:"resume,omitempty"`
	PartialTTL string `yaml:"partialttl,omitempty"`
	BindingTTL string `yaml:"bindingttl,omitempty"`

	Pins          list   `yaml:"pins,omitempty"`
	ScrubInterval string `yaml:"scrubinterval,omitempty"`
	ScrubRate     string `yaml:"scrubrate,omitempty"`
}

// seedSection says what is fetched ahead of time, and who may ask for that from afar.
type seedSection struct {
	File      string `yaml:"file,omitempty"`
	TokenFile string `yaml:"tokenfile,omitempty"`
}

// bundleSection says whose bundles are loaded.
type bundleSection struct {
	TrustKeys list `yaml:"trustkeys,omitempty"`
}

// builtin is the document that stands for an absent file.
func builtin() *document {
	return &document{
		Version: configuration.CurrentVersion,
		Storage: choice{"filesystem": configuration.Parameters{}},
	}
}

// choice is a section that picks one of several implementations by a key, which
// has the parameters, or by its bare name. That there is only one is checked
// after the variables were applied, because those can add another.
type choice map[string]configuration.Parameters

// UnmarshalYAML implements [yaml.Unmarshaler].
func (c *choice) UnmarshalYAML(unmarshal func(any) error) error {
	var m map[string]configuration.Parameters
	err := unmarshal(&m)
	if err == nil {
		*c = m
		return nil
	}
	var name string
	if unmarshal(&name) != nil {
		return err // what is wrong with the mapping says more
	}
	*c = choice{name: configuration.Parameters{}}
	return nil
}

// list is a list of words, which can also be written as one text with commas or
// spaces in between. That is how variables have it: a number at the end of their
// names is that of a remote, as in REGISTRY_PROXY_DENY_2, and not of an element.
type list []string

// UnmarshalYAML implements [yaml.Unmarshaler].
func (l *list) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if unmarshal(&text) == nil {
		*l = words(text)
		return nil
	}
	return unmarshal((*[]string)(l))
}

// listOf reads the value of a variable. It is YAML where it is in brackets or
// quotes, and plain text otherwise: most patterns are no YAML, where * begins an
// alias, ! a tag and # a comment.
func listOf(value string) list {
	if strings.ContainsAny(firstOf(strings.TrimSpace(value)), `["'`) {
		var l list
		d := yaml.NewDecoder(strings.NewReader(value))
		// Behind a pattern such as [a-z]*/x the rest is another document, or none.
		if err := d.Decode(&l); err == nil && errors.Is(d.Decode(new(any)), io.EOF) {
			return l
		}
	}
	return words(value)
}

// words splits text at commas and spaces. A comma within braces is part of a word:
// it is one of a pattern such as {a,b}.
func words(text string) list {
	var l list
	from, depth := 0, 0
	end := func(at int) {
		if from < at {
			l = append(l, text[from:at])
		}
		from = at + 1
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c == '{':
			depth++
		case c == '}':
			depth--
		case strings.IndexByte(" \t\r\n", c) >= 0:
			end(i)
			depth = 0
		case c == ',' && depth <= 0:
			end(i)
		}
	}
	end(len(text))
	return l
}

// firstOf is the first byte of text, if any.
func firstOf(text string) string { return text[:min(1, len(text))] }

// field is a field of a section.
type field struct {
	// index is for [reflect.Value.FieldByIndex].
	index []int
	// key is the field's name in config.yml, and variable that in the
	// environment.
	key, variable string
	typ           reflect.Type
}

// fieldsOf returns the fields of a section, those of inlined ones included.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		key, options, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if options == "inline" {
			for _, f := range fieldsOf(sf.Type) {
				f.index = append([]int{i}, f.index...)
				fields = append(fields, f)
			}
			continue
		}
		if key == "" {
			key = strings.ToLower(sf.Name) // as package yaml does
		}
		fields = append(fields, field{
			index:    sf.Index,
			key:      key,
			variable: strings.ToUpper(sf.Name),
			typ:      sf.Type,
		})
	}
	return fields
}

// isSection tells whether values of type t are decoded field by field.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]())
}
