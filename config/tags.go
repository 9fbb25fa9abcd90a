package config

import (
	"slices"
	"strings"

	"registry-module/cache/tagpolicy"
	"registry-module/upstream"
)

// tags reads how long what the remote says of tags holds.
func (r remoteReader) tags(remote *Remote) {
	l, s := r.loader, r.section
	remote.TagTTL = l.duration(r.at("tagttl"), s.TagTTL, DefaultTagTTL)
	remote.TagRules = r.tagRules(remote)
	remote.StaleWhileRevalidate = l.duration(r.at("stalewhilerevalidate"), s.StaleWhileRevalidate, DefaultStaleWhileRevalidate)
	remote.NegativeTTL = l.duration(r.at("negativettl"), s.NegativeTTL, DefaultNegativeTTL)
	if s.MaxStale != "" {
		d := l.duration(r.at("maxstale"), s.MaxStale, 0)
		remote.MaxStale = &d
	}
	r.warnOfTags(remote)
}

// tagRules reads the rules for tags. One that can never apply is an error, as with
// patterns: who asks for a tag each time by it would not notice that it is pinned.
func (r remoteReader) tagRules(remote *Remote) tagpolicy.Rules {
	var rules tagpolicy.Rules
	for _, text := range r.section.TagRules {
		rule, err := tagpolicy.Parse(text)
		if err != nil {
			r.bad("tagrules", text, "%v", err)
			continue
		}
		if p := rule.Repositories(); p != "" {
			if text := badPattern(p, remote.Namespaces); text != "" {
				r.bad("tagrules", rule.String(), "has a pattern for repositories that %s", text)
				continue
			}
			if remote.URL != nil && remote.URL.Host == upstream.DockerHub && !strings.Contains(p, "/") && !strings.Contains(p, "**") {
				r.bad("tagrules", rule.String(), "is for no repository of Docker Hub, where nginx is library/nginx: write names with their owner, for example library/%s", rule)
				continue
			}
		}
		rules = append(rules, rule)
	}
	for _, h := range rules.Hidden() {
		r.bad("tagrules", h.Rule.String(), "never applies, since the first rule that matches decides and %s before it matches all that it does: write it before that one, or remove it", h.By)
	}
	return rules
}

// warnOfTags warns of settings that have no effect beside the others.
func (r remoteReader) warnOfTags(remote *Remote) {
	l, s := r.loader, r.section
	ruled := slices.IndexFunc(remote.TagRules, tagpolicy.Rule.CoversAll)
	if ruled >= 0 && s.TagTTL != "" {
		l.warn("%s has no effect: the rule %s in %s is for all tags", r.named("tagttl"), remote.TagRules[ruled], r.named("tagrules"))
	}
	lifetimes := ruled < 0 && remote.TagTTL > 0 ||
		slices.ContainsFunc(remote.TagRules, func(rule tagpolicy.Rule) bool { return rule.TTL > 0 })
	if s.StaleWhileRevalidate != "" && remote.StaleWhileRevalidate > 0 && !lifetimes {
		l.warn("%s has no effect: by %s and %s the remote is asked about a tag each time or never",
			r.named("stalewhilerevalidate"), r.named("tagttl"), r.named("tagrules"))
	}
	if remote.MaxStale == nil || *remote.MaxStale == 0 {
		return
	}
	if ruled < 0 && *remote.MaxStale < remote.TagTTL {
		l.warn("%s is shorter than %s, which is %s: it means the same as 0, that no tag is answered which the remote cannot confirm",
			r.named("maxstale"), r.named("tagttl"), tagpolicy.Policy{TTL: remote.TagTTL})
	}
	for _, rule := range remote.TagRules {
		if *remote.MaxStale < rule.TTL {
			l.warn("%s is shorter than the rule %s in %s says: for its tags it means the same as 0, that none is answered which the remote cannot confirm",
				r.named("maxstale"), rule, r.named("tagrules"))
		}
	}
}
