package dashboard

import (
	"cmp"
	"strings"

	"registry-module/server/admin"
)

// notes puts together what is wrong now and what to do about it, the worst first.
func (v *view) notes(s admin.State) {
	add := func(key, tone, hint, text string, args ...string) {
		v.Notes = append(v.Notes, note{key, tone, v.word(text, args...), v.word(hint)})
	}
	if !s.Ready {
		reasons := s.NotReady
		if len(reasons) == 0 {
			reasons = []string{v.word("unknown")}
		}
		for _, reason := range reasons {
			add("notready "+reason, bad, "note.notready.hint", "note.notready", clean(reason, maxText))
		}
	}
	if s.Disk.Short != "" {
		add("short", bad, "note.short.hint", "note.short", clean(s.Disk.Short, maxText))
	}
	if s.Config.Error != "" {
		add("config", bad, "note.config.hint", "note.config", clean(s.Config.Error, maxText))
	}
	for i, r := range s.Remotes {
		if r.Good || r.State == "held" {
			continue
		}
		hint := "note.remote.hint"
		if r.State == "limited" {
			hint = "note.limited.hint"
		}
		to := v.Remotes[i]
		add("remote "+r.Host, warn, hint, "note.remote", to.Host, cmp.Or(to.Reason, to.State))
	}
	var failing int64
	for _, d := range s.Downloads {
		if d.Failure != "" {
			failing++
		}
	}
	if failing > 0 {
		add("downloads", warn, "note.downloads.hint", "note.downloads", v.number(failing, "downloads"))
	}
	if seed := s.Seed; seed != nil && seed.Error != "" {
		add("seed", warn, "note.seed.hint", "note.seed", clean(seed.Error, maxText))
	} else if seed != nil && seed.Failed > 0 {
		add("seed", warn, "note.seedfailed.hint", "note.seedfailed", count(int64(seed.Failed)), v.number(int64(seed.Images), "images"))
	}
	for _, text := range s.Warnings {
		add("warning "+text, warn, "note.warning.hint", "note.warning", clean(text, maxText))
	}
	if len(s.Config.Restart) > 0 {
		add("restart", info, "note.restart.hint", "note.restart", clean(strings.Join(s.Config.Restart, ", "), maxText))
	}
	if s.Offline.On {
		add("offline", info, "note.offline.hint", "note.offline", cmp.Or(v.OfflineReason, v.word("note.offline.noreason")))
	}
}

// verdict puts all of it into some words.
func (v *view) verdict(s admin.State) {
	v.Verdict, v.Tone = v.word("verdict.well"), good
	if s.Offline.On {
		v.Verdict, v.Tone = v.word("verdict.offline"), info
	}
	for _, n := range v.Notes {
		if n.Tone == bad {
			v.Verdict, v.Tone = v.word("verdict.bad"), bad
		} else if n.Tone == warn && v.Tone != bad {
			v.Verdict, v.Tone = v.word("verdict.warn"), warn
		}
	}
	if !s.Ready {
		v.Verdict, v.Tone = v.word("verdict.notready"), bad
	}
}
