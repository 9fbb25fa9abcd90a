package admin

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of an [ImageQuery].
const (
	DefaultLimit = 50
	MaxLimit     = 500
	maxSearch    = 256 // bytes; longer than any name that one would type
)

// The orders of a list of images.
const (
	SortName   = "name"
	SortSize   = "size"
	SortUsed   = "used"
	SortPinned = "pinned"
)

var sorts = []string{SortName, SortSize, SortUsed, SortPinned}

// ImageQuery is which images are asked for. The zero value is the first ones by name.
type ImageQuery struct {
	// Text is what is in the name, the tag or the digest, in any case; empty is all.
	Text string
	// Sort is one of the constants, by default SortName; what is equal is in the order of
	// names. Descending begins with the largest, last used, or pinned.
	Sort       string
	Descending bool
	// Offset is how many to leave out, and Limit how many to give: 0 is DefaultLimit, and
	// MaxLimit the most.
	Offset, Limit int
}

// ParseImageQuery reads q, sort, order, offset and limit. What is missing has its default;
// order is asc for names, and desc for everything else. An error says what to write.
func ParseImageQuery(values url.Values) (ImageQuery, error) {
	q := ImageQuery{Text: strings.TrimSpace(values.Get("q")), Sort: values.Get("sort")}
	if len(q.Text) > maxSearch || !utf8.ValidString(q.Text) {
		return ImageQuery{}, fmt.Errorf("%w: q is what to look for: write at most %d bytes of text", ErrInvalid, maxSearch)
	}
	if q.Sort == "" {
		q.Sort = SortName
	}
	if !slices.Contains(sorts, q.Sort) {
		return ImageQuery{}, fmt.Errorf("%w: there is no such sort: write one of %s", ErrInvalid, strings.Join(sorts, ", "))
	}
	switch values.Get("order") {
	case "":
		q.Descending = q.Sort != SortName
	case "asc":
	case "desc":
		q.Descending = true
	default:
		return ImageQuery{}, fmt.Errorf("%w: there is no such order: write asc or desc", ErrInvalid)
	}
	var err error
	if q.Offset, err = count(values, "offset", 0, 1<<30); err != nil {
		return ImageQuery{}, err
	}
	if q.Limit, err = count(values, "limit", DefaultLimit, MaxLimit); err != nil {
		return ImageQuery{}, err
	}
	return q, nil
}

// Values are the parameters of which ParseImageQuery makes the same query.
func (q ImageQuery) Values() url.Values {
	values := url.Values{}
	if q.Text != "" {
		values.Set("q", q.Text)
	}
	values.Set("sort", q.sort())
	values.Set("order", "asc")
	if q.Descending {
		values.Set("order", "desc")
	}
	values.Set("offset", strconv.Itoa(q.Offset))
	values.Set("limit", strconv.Itoa(q.limit()))
	return values
}

func (q ImageQuery) sort() string {
	if q.Sort == "" {
		return SortName
	}
	return q.Sort
}

func (q ImageQuery) limit() int {
	if q.Limit <= 0 {
		return DefaultLimit
	}
	return min(q.Limit, MaxLimit)
}

// count reads a number that is not negative.
func count(values url.Values, name string, without, most int) (int, error) {
	text := values.Get(name)
	if text == "" {
		return without, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%w: %s is a number: write one from 0 to %d", ErrInvalid, name, most)
	}
	if n == 0 {
		return without, nil
	}
	return n, nil
}
