package dashboard

import (
	"slices"
	"strings"
	"time"
)

// vocabulary has the texts that are chosen by what the state of the module is.
type vocabulary map[string]string

// words are the vocabulary. It is in the page as a template element, where the script finds
// it. {} stands for what is filled in.
func words() vocabulary {
	return vocabulary{
		"verdict.well":     "All is well",
		"verdict.offline":  "Works offline",
		"verdict.warn":     "Works, but look at this",
		"verdict.bad":      "Needs attention",
		"verdict.notready": "Not ready",

		"note.notready":      "Not ready: {}",
		"note.notready.hint": "Clients and load balancers are told to wait.",
		"note.warning":       "{}",
		"note.warning.hint":  "The log has more about it.",
		"note.config":        "The last change of the configuration is not in force: {}",
		"note.config.hint":   "The module goes on with the settings it had. Correct the file, and reload.",
		"note.restart":       "These settings wait for a restart: {}",
		"note.restart.hint":  "Restart the module when it suits: downloads go on afterwards from where they were.",
		"note.short":         "There is no room for new images: {}",
		"note.short.hint":    "Pulls still work, but what they fetch is not stored. Raise REGISTRY_CACHE_MAXSIZE, make room on the disk, or unpin or remove images.",
		"note.remote":        "{}: {}",
		"note.remote.hint":   "Stored images are served meanwhile. registry-module doctor says which step of the way fails.",
		"note.limited.hint":  "Stored images are served meanwhile. The registry has set the time; logging in can raise its limit.",
		"note.downloads":     "{} in trouble",
		"note.downloads.hint": "They go on from where they were as soon as the remote lets them. " +
			"The reasons are under Downloads.",
		"note.seed":             "Seeding has failed: {}",
		"note.seed.hint":        "It is tried again as scheduled. registry-module seed says what happens to each image.",
		"note.seedfailed":       "Seeding: {} of {} not fetched",
		"note.seedfailed.hint":  "It is tried again as scheduled. registry-module seed says what happens to each image.",
		"note.offline":          "Offline mode is on: {}",
		"note.offline.hint":     "No remote is asked for anything. What is stored is served.",
		"note.offline.noreason": "set by the operator",

		"remote.unknown": "Not asked yet",
		"remote.online":  "Online",
		"remote.failing": "Answers with errors",
		"remote.offline": "Cannot be reached",
		"remote.limited": "Asks us to wait",
		"remote.held":    "Left alone, offline mode",
		"remote.good":    "Everything that is asked for is answered.",
		"remote.idle":    "Nothing has been asked of it since the start.",

		"offline.on":   "Offline mode: on",
		"offline.off":  "Offline mode: off",
		"offline.auto": "Offline mode: as configured",

		"download.waiting": "Waits for its turn",
		"download.failure": "Trouble: {}",
		"download.silent":  "No data for {}",
		"download.running": "Under way",
		"download.ahead":   "ahead of demand",
		"download.left":    "about {} left",
		"download.of":      "{} of {}",
		"download.have":    "{} so far",
		"download.more":    "and {} more",

		"clients.0":   "nobody yet",
		"clients.1":   "{} client",
		"clients.n":   "{} clients",
		"images.1":    "{} image",
		"images.n":    "{} images",
		"downloads.1": "{} download",
		"downloads.n": "{} downloads",
		"requests.1":  "{} request",
		"requests.n":  "{} requests",
		"times.1":     "once",
		"times.n":     "{} times",

		"rate":        "{}/s",
		"time.now":    "just now",
		"time.ago":    "{} ago",
		"time.in":     "in {}",
		"time.never":  "never",
		"unknown":     "not known",
		"none":        "none",
		"tile.hits":   "of {} since the start",
		"tile.saved":  "{} served, {} fetched",
		"tile.idle":   "nothing under way",
		"tile.rate":   "{} at the moment",
		"tile.remote": "{} of {}",
		"tile.of":     "of {} allowed",
		"tile.nolim":  "no limit set",

		"disk.short":   "No room: {}",
		"disk.unknown": "Not measured yet",
		"disk.ok":      "There is room",

		"chart.empty": "Nothing is known yet; the first figures are there after some minutes.",
		"chart.text":  "{} to {}: {} served to clients, {} fetched over the link, {} from the cache.",

		"images.none":    "No image is stored yet.",
		"images.nomatch": "No image has that in its name.",
		"images.range":   "{} to {} of {}",
		"images.error":   "The list could not be read: {}",
		"image.more":     "and {} more",
		"image.missing":  "Incomplete: {} missing",
		"image.part":     "Incomplete",
		"image.own":      "{} of its own",
		"image.pin":      "Pin {}",
		"image.unpin":    "Unpin {}",
		"image.refresh":  "Refresh {}",
		"image.remove":   "Remove {}",
		"parts.1":        "{} part",
		"parts.n":        "{} parts",
		"pin":            "Pin",
		"unpin":          "Unpin",
		"pinned":         "Pinned",
		"pin.operator":   "by the operator",
		"pin.seeded":     "by seeding",
		"pin.policy":     "by the configuration",

		"config.none":  "Settings come from the environment alone",
		"config.bad":   "The last change is not in force: {}",
		"config.wait":  "Waits for a restart: {}",
		"config.good":  "All settings are in force",
		"seed.none":    "No schedule is set",
		"seed.running": "Under way",
		"seed.failed":  "Failed: {}",
		"seed.some":    "{} of {} not fetched",
		"seed.good":    "As it should be",
		"seed.waiting": "Has not run yet",

		"done.pin":     "Pinned {}.",
		"done.unpin":   "Unpinned {}.",
		"done.remove":  "Removed {}.",
		"done.refresh": "Refreshing {}.",
		"done.seed":    "Seeding {}.",
		"done.offline": "Offline mode: {}.",
		"done.reload":  "The configuration was read again.",
		"done":         "Done.",

		"live.on":       "Live",
		"live.wait":     "Connecting",
		"live.off":      "Connection lost, as of {}",
		"say.well":      "All is well again.",
		"token.missing": "Enter the operator's token first.",
		"token.wrong":   "The token was not accepted.",
		"token.kept":    "The token is kept in this tab until it is closed.",
		"token.gone":    "The token is forgotten.",
		"failed":        "That did not work: {}",
		"failed.net":    "the module does not answer",
		"working":       "Working on it.",
	}
}

// word is a text with what is filled in.
func (v vocabulary) word(key string, args ...string) string {
	var b strings.Builder
	for i, part := range strings.Split(v[key], "{}") {
		if i > 0 && i <= len(args) {
			b.WriteString(args[i-1])
		}
		b.WriteString(part)
	}
	return b.String()
}

// number is a count with what is counted: the words have the forms for one and for several.
func (v vocabulary) number(n int64, what string) string {
	if n == 1 {
		return v.word(what+".1", "1")
	}
	return v.word(what+".n", count(n))
}

// at says when t was or will be.
func (v vocabulary) at(t, now time.Time, unknown string) moment {
	if t.Year() <= 1 {
		return moment{Rel: unknown}
	}
	iso := t.UTC().Format("2006-01-02T15:04:05Z")
	m := moment{ISO: iso, Abs: iso[:10] + " " + iso[11:19] + " UTC"}
	switch d := now.Truncate(time.Second).Sub(t.Truncate(time.Second)); {
	case d < -time.Second:
		m.Rel = v.word("time.in", duration(-d))
	case d < 2*time.Second:
		m.Rel = v.word("time.now")
	default:
		m.Rel = v.word("time.ago", duration(d))
	}
	return m
}

// entry is one of the words, for the page.
type entry struct{ Key, Text string }

// entries are in an order that does not change.
func (v vocabulary) entries() []entry {
	all := make([]entry, 0, len(v))
	for key, text := range v {
		all = append(all, entry{key, text})
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.Key, b.Key) })
	return all
}
