package seed

// Job is what is to be there.
type Job struct {
	Wants []Want `json:"wants"`
	// Prune takes back the pins of images that were seeded before and are not wanted any
	// more. It does nothing where one of Wants has failed, whose tags may be unknown, and
	// for which what is pinned may have to stand in.
	Prune bool `json:"prune,omitempty"`
}

// Want is an image, or some tags of a repository.
type Want struct {
	// Image is [HOST/]NAME[:TAG][@DIGEST], as clients write it, or $upstream:PORT/NAME as
	// deployment manifests have it. With Tags it has neither tag nor digest. Without any
	// of them it is the tag latest.
	Image string `json:"image"`
	// Tags picks among the tags of the repository; nil where Image says which.
	Tags *Tags `json:"tags,omitempty"`
	// Platforms are those of an index to fetch, in the form os/architecture[/variant];
	// all where there are none.
	Platforms []string `json:"platforms,omitempty"`
	// Bare leaves out what is attached to the image: signatures, SBOMs, attestations.
	Bare bool `json:"bare,omitempty"`
	// Loose does not pin it.
	Loose bool `json:"loose,omitempty"`
	// From says where it is named, for messages, for example "deployment.json, module
	// edgeHub".
	From string `json:"from,omitempty"`
}

// Tags picks tags of a repository: those that match one of Glob, or Regexp, or SemVer; all
// where none is given. Of those, Newest takes so many.
type Tags struct {
	// Glob are patterns in which * is anything.
	Glob []string `json:"glob,omitempty"`
	// Regexp is matched against whole tags; see package regexp.
	Regexp string `json:"regexp,omitempty"`
	// SemVer is a range such as ">=1.2 <2" or "~1.4". Tags that are no versions are not
	// in it; a leading v is left aside. One such as 1.27-alpine is a version before 1.27
	// (Semantic Versioning 2.0.0, section 9), and only in ranges that name such a version,
	// for example ">=1.2-0".
	SemVer string `json:"semver,omitempty"`
	// Newest is how many to take at most, the highest versions first; tags that are no
	// versions come after those, in the reverse of their alphabetical order. 0 is all.
	Newest int `json:"newest,omitempty"`
}
