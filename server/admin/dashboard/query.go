package dashboard

import (
	"net/url"
	"strconv"

	"registry-module/server/admin"
)

// pageSize is how many images a page has: what fits on some screens, and keeps a page of
// 10,000 images as small as one of 50.
const pageSize = admin.DefaultLimit

// columns are those by which images can be sorted, and whether that is the other way round
// at first: who sorts by size looks for the large ones.
var columns = []struct {
	name, label string
	desc        bool
}{
	{admin.SortName, "Image", false},
	{admin.SortSize, "Size", true},
	{admin.SortUsed, "Last use", true},
	{admin.SortPinned, "Pinned", true},
}

// parseQuery takes nonsense for nothing: the address of a page is not worth an error.
func parseQuery(v url.Values) admin.ImageQuery {
	q, err := admin.ParseImageQuery(v)
	if err != nil {
		q, _ = admin.ParseImageQuery(url.Values{})
	}
	q.Offset -= q.Offset % pageSize
	q.Limit = pageSize
	return q
}

// href is the address of the page with that query.
func href(q admin.ImageQuery) string {
	v := url.Values{"sort": {q.Sort}, "order": {order(q)}}
	if q.Text != "" {
		v.Set("q", q.Text)
	}
	if q.Offset > 0 {
		v.Set("offset", strconv.Itoa(q.Offset))
	}
	return "./?" + v.Encode() + "#images"
}

func order(q admin.ImageQuery) string {
	if q.Descending {
		return "desc"
	}
	return "asc"
}

// sorted is the query in the order of a column; by the one that it has, it is the other way
// round.
func sorted(q admin.ImageQuery, column string, desc bool) admin.ImageQuery {
	if q.Sort == column {
		desc = !q.Descending
	}
	q.Sort, q.Descending, q.Offset = column, desc, 0
	return q
}
