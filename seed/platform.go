package seed

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// platform is for which machines a manifest is (OCI image specification, "Image Index",
// platform), with the names of architectures as Go has them.
type platform struct{ os, arch, variant string }

var platformForm = regexp.MustCompile(`^[a-z0-9._-]{1,64}(/[a-z0-9._-]{1,64}){1,2}$`)

// parsePlatform reads os/architecture[/variant].
func parsePlatform(text string) (platform, error) {
	lower := strings.ToLower(text)
	if !platformForm.MatchString(lower) {
		return platform{}, fmt.Errorf("has the platform %.80q: write os/architecture[/variant], for example linux/arm64 or linux/arm/v7", text)
	}
	os, rest, _ := strings.Cut(lower, "/")
	arch, variant, _ := strings.Cut(rest, "/")
	return platform{os, arch, variant}.clean(), nil
}

// platformOf returns what a descriptor says. It returns false where it says nothing.
func platformOf(d v1.Descriptor) (platform, bool) {
	if d.Platform == nil {
		return platform{}, false
	}
	p := platform{strings.ToLower(d.Platform.OS), strings.ToLower(d.Platform.Architecture), strings.ToLower(d.Platform.Variant)}.clean()
	return p, p.os != "" && p.arch != "" && p.os != "unknown" && p.arch != "unknown"
}

// clean replaces names that machines have for themselves by those of images.
func (p platform) clean() platform {
	switch p.arch {
	case "x86_64", "x86-64":
		p.arch = "amd64"
	case "i386", "i486", "i586", "i686":
		p.arch = "386"
	case "aarch64":
		p.arch = "arm64"
	case "armhf":
		p.arch, p.variant = "arm", cmp.Or(p.variant, "v7")
	case "armel":
		p.arch, p.variant = "arm", cmp.Or(p.variant, "v6")
	}
	if p.variant != "" && strings.Trim(p.variant, "0123456789") == "" {
		p.variant = "v" + p.variant
	}
	return p
}

// String is os/architecture[/variant], without a variant that goes without saying.
func (p platform) String() string {
	text := p.os + "/" + p.arch
	if p.variant != "" && (p.arch == "arm" || p.variant != usualVariant(p.arch)) {
		text += "/" + p.variant
	}
	return text
}

// usualVariant is the variant of a manifest that names none.
func usualVariant(arch string) string {
	switch arch {
	case "arm":
		return "v7"
	case "arm64":
		return "v8"
	case "amd64":
		return "v1"
	}
	return ""
}

// level is the number of a variant, negative for one that has none.
func level(variant string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(variant, "v"))
	if err != nil {
		return -1
	}
	return n
}

// choose returns the places in have of what p asks for.
//
// Without a variant that is every variant, but of arm64 only v8, which is what machines
// that name none are. With one it is exactly that; where there is none such, it is the
// highest below, which the machine runs as well.
func (p platform) choose(have []platform) (places []int) {
	best := -1
	for i, h := range have {
		if h.os != p.os || h.arch != p.arch {
			continue
		}
		is, wants := cmp.Or(h.variant, usualVariant(h.arch)), p.variant
		if wants == "" && p.arch == "arm64" {
			wants = usualVariant(p.arch)
		}
		switch n := level(is); {
		case wants == "", is == wants:
			n = 1 << 30 // as good as it gets
			fallthrough
		case n >= 0 && n < level(wants):
			if n > best {
				best, places = n, nil
			}
			if n == best {
				places = append(places, i)
			}
		}
	}
	return places
}
