package dashboard

import (
	"slices"
	"strconv"
	"strings"

	"registry-module/cache"
	"registry-module/server/admin"
)

// imagesView is a page of the list of images.
type imagesView struct {
	Text, Sort, Order   string
	Rows                []imageView
	Range, Empty, Error string
	Truncated           bool
	Columns             []column
	Previous, Next      string // addresses, empty for none
	Generation          string
}

// column is one that can be sorted by.
type column struct {
	Name, Label, Sorted, Href string
}

type imageView struct {
	Key, Name, Asked, Digest, Remote string
	Platforms, Incomplete            string
	Size, Own                        string
	Used                             moment
	Pinned, Pins                     string
	PinAction, PinText, PinLabel     string
	RefreshLabel, RemoveLabel        string
	Tagged, Actions                  bool
}

// images adds a page of the list to what is shown; err is why it could not be had.
func (v *view) images(q admin.ImageQuery, p admin.ImagePage, err error) {
	to := imagesView{Text: q.Text, Sort: q.Sort, Order: order(q), Generation: strconv.FormatUint(p.Generation, 10)}
	for _, c := range columns {
		col := column{Name: c.name, Label: c.label, Sorted: "none", Href: href(sorted(q, c.name, c.desc))}
		if q.Sort == c.name {
			col.Sorted = map[bool]string{false: "ascending", true: "descending"}[q.Descending]
		}
		to.Columns = append(to.Columns, col)
	}
	for _, i := range p.Images[:min(len(p.Images), pageSize)] {
		to.Rows = append(to.Rows, v.image(i))
	}
	first, last := q.Offset+1, q.Offset+len(to.Rows)
	switch {
	case err != nil:
		to.Error = v.word("images.error", clean(err.Error(), maxText))
	case len(to.Rows) > 0:
		to.Range = v.word("images.range", count(int64(first)), count(int64(last)), v.number(int64(p.Total), "images"))
	case q.Text != "":
		to.Empty = v.word("images.nomatch")
	default:
		to.Empty = v.word("images.none")
	}
	to.Truncated = p.Truncated
	if q.Offset > 0 {
		previous := q
		previous.Offset = max(q.Offset-pageSize, 0)
		to.Previous = href(previous)
	}
	if last < p.Total && len(to.Rows) > 0 {
		next := q
		next.Offset = q.Offset + pageSize
		to.Next = href(next)
	}
	v.Images = to
}

// maxPlatforms is how many platforms of an image are named.
const maxPlatforms = 4

func (v *view) image(i admin.Image) imageView {
	name := clean(i.Asked, maxText)
	to := imageView{
		Key: i.Asked + " " + string(i.Digest), Name: name, Asked: i.Asked, Digest: short(string(i.Digest)),
		Remote: clean(i.Remote, maxText), Size: size(i.Size), Own: v.word("image.own", size(i.Unique)),
		Used: v.atOr(i.Used, "unknown"), Tagged: i.Tag != "", Actions: v.Actions,
		PinAction: "actions/pin", PinText: v.word("pin"), PinLabel: v.word("image.pin", name),
		RefreshLabel: v.word("image.refresh", name), RemoveLabel: v.word("image.remove", name),
	}
	platforms := i.Platforms
	if len(platforms) > maxPlatforms {
		platforms = append(slices.Clone(platforms[:maxPlatforms]), v.word("image.more", count(int64(len(i.Platforms)-maxPlatforms))))
	}
	to.Platforms = clean(strings.Join(platforms, ", "), maxText)
	switch {
	case i.Missing > 0:
		to.Incomplete = v.word("image.missing", v.number(int64(i.Missing), "parts"))
	case !i.Complete:
		to.Incomplete = v.word("image.part")
	}
	var pins []string
	for _, p := range i.Pins {
		if by := v.word("pin." + string(p.Reason)); by != "" && !slices.Contains(pins, by) {
			pins = append(pins, by)
		}
		if p.Reason == cache.PinnedByOperator {
			to.PinAction, to.PinText, to.PinLabel = "actions/unpin", v.word("unpin"), v.word("image.unpin", name)
		}
	}
	if i.Pinned {
		to.Pinned = v.word("pinned")
		to.Pins = strings.Join(pins, ", ")
	}
	return to
}
