package config

import (
	"iter"
	"reflect"
	"slices"
	"strconv"

	"github.com/distribution/distribution/v3/configuration"

	"registry-module/internal/schedule"
	"registry-module/upstream"
)

// mostRemotes is how many remotes there can be, and the highest number of one:
// arbitrary, far more than anyone has.
const mostRemotes = 64

// remoteKey returns the key of the remote with that number.
func remoteKey(number int) string {
	if number == 1 {
		return "proxy"
	}
	return join("proxy.remotes", strconv.Itoa(number-2))
}

// remotes gives the remotes of which anything is set, with their numbers.
func (p *proxySection) remotes() iter.Seq2[int, *remoteSection] {
	return func(yield func(int, *remoteSection) bool) {
		if p.remoteSection.anySetting() != "" && !yield(1, &p.remoteSection) {
			return
		}
		for i := range p.Remotes {
			if s := &p.Remotes[i]; s.anySetting() != "" && !yield(i+2, s) {
				return
			}
		}
	}
}

// anySetting returns the key, below that of s, of a setting that is set, or
// nothing.
func (s *remoteSection) anySetting() string {
	// A variable that is empty makes a section, but sets nothing.
	if s.Exec != nil && *s.Exec == (configuration.ExecConfig{}) {
		s.Exec = nil
	}
	return anySetting(reflect.ValueOf(s).Elem(), "")
}

func anySetting(v reflect.Value, key string) string {
	for _, f := range fieldsOf(v.Type()) {
		switch value := v.FieldByIndex(f.index); {
		case value.IsZero() || value.Kind() == reflect.Slice && value.Len() == 0:
		case value.Kind() == reflect.Pointer && isSection(value.Type().Elem()):
			return anySetting(value.Elem(), join(key, f.key))
		default:
			return join(key, f.key)
		}
	}
	return ""
}

func (l *loader) finishProxy(doc *document, c *Config) {
	p := &doc.Proxy
	l.finishOffline(p, c)
	if n := len(p.Remotes); n >= mostRemotes {
		l.bad("proxy.remotes", "", "has %d elements: there can be %d remotes, the one without a number included", n, mostRemotes)
		p.Remotes = p.Remotes[:mostRemotes-1]
	}
	l.checkURLs(p)
	for number, s := range p.remotes() {
		remote := remoteReader{l, s, remoteKey(number)}.read()
		if remote.URL == nil {
			continue
		}
		remote.Number = number
		// Who says nothing has one default remote, which is the first.
		remote.Default = len(c.Remotes) == 0
		if s.Default != nil {
			remote.Default = *s.Default
		}
		c.Remotes = append(c.Remotes, remote)
	}
	l.checkNames(c.Remotes)
	if len(c.Remotes) > 1 && !slices.ContainsFunc(c.Remotes, func(r Remote) bool { return r.Default }) {
		l.warn("no remote has %s (proxy.default): only what is asked for by the host, an alias or a namespace of a remote is fetched", variable("proxy.default"))
	}
}

func (l *loader) finishOffline(p *proxySection, c *Config) {
	const always, times = "proxy.offline", "proxy.offlineschedule"
	windows, err := schedule.Parse(p.OfflineSchedule)
	if err != nil {
		l.bad(times, p.OfflineSchedule, "%v", err)
	}
	c.Offline, c.OfflineSchedule = p.Offline, windows
	if p.Offline && !windows.IsZero() {
		l.warn("%s (%s) is true, so that %s (%s) has no effect: remove one of them",
			variable(always), always, variable(times), times)
	}
}

// checkURLs says which remotes lack their URL.
func (l *loader) checkURLs(p *proxySection) {
	others := false
	for i := range p.Remotes {
		setting := p.Remotes[i].anySetting()
		others = others || setting != ""
		// An element of the file that says something, but nothing that is known.
		// A variable that is empty has taken it away on purpose.
		key := remoteKey(i + 2)
		if url := join(key, "remoteurl"); setting == "" && l.lines[key] > 0 && l.variables[url] == "" {
			l.problem(Problem{Key: url, Variable: variable(url), Line: l.lines[key],
				Text: "is missing: write the URL of the remote, or remove this element of the list"})
		}
	}
	for number, s := range p.remotes() {
		url := join(remoteKey(number), "remoteurl")
		switch {
		case s.RemoteURL != "":
		case number == 1 && !others:
			// Nothing but settings of a remote is what the stock registry takes
			// for no remote.
			l.warn("%s (%s) is not set, so the other settings of proxy have no effect", variable(url), url)
		default:
			l.bad(join(remoteKey(number), s.anySetting()), "", "is set, but %s is not: write the URL of the remote there, or remove all settings of remote number %d",
				variable(url), number)
		}
	}
}

// checkNames makes sure that no name means two remotes, or two things at one. That
// an alias repeats the host of its own remote means no harm.
func (l *loader) checkNames(remotes []Remote) {
	type claim struct {
		key    string
		number int
	}
	claims := map[string]claim{}
	for _, r := range remotes {
		check := func(setting, value string, harmless bool) {
			name, key := canonical(value), join(remoteKey(r.Number), setting)
			if first, taken := claims[name]; !taken {
				claims[name] = claim{key, r.Number}
			} else if !harmless || first.number != r.Number {
				l.bad(key, value, "means what %s (%s) means already: each host, alias and namespace has to mean one thing",
					l.variable(first.key), first.key)
			}
		}
		check("remoteurl", r.URL.String(), false)
		if r.Alias != "" {
			check("alias", r.Alias, true)
		}
		for _, namespace := range r.Namespaces {
			check("namespaces", namespace, false)
		}
	}
}

// canonical returns the one form of a name that a remote can have: docker.io and
// index.docker.io are names of the host that serves Docker Hub.
func canonical(name string) string {
	u, err := upstream.ParseURL(name)
	if err != nil {
		return name
	}
	return u.Host
}
