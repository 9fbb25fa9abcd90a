package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
)

const (
	// maxToken bounds, in bytes, a string or number in what is read, with the white space
	// in front of it. The longest that has a meaning is a name of 255 bytes.
	maxToken = 64 << 10
	// maxNested bounds how many values lie in one another where their meaning is not
	// known.
	maxNested = 100
)

var (
	errToken  = fmt.Errorf("it has a value of more than %d bytes", maxToken)
	errNested = fmt.Errorf("more than %d values lie in one another", maxNested)
)

// values reads JSON value by value. Each can be judged before the next takes memory: it
// takes no more than what is kept of it.
type values struct {
	dec *json.Decoder
	in  allowance
	// known has the texts that come again and again, each once.
	known map[string]string
}

// allowance gives a decoder no more than left bytes.
type allowance struct {
	r    io.Reader
	left int
}

// Read implements io.Reader.
func (a *allowance) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, errToken
	}
	n, err := a.r.Read(p[:min(len(p), a.left)])
	a.left -= n
	return n, err
}

func newValues(r io.Reader) *values {
	v := &values{in: allowance{r: r}, known: make(map[string]string)}
	v.dec = json.NewDecoder(&v.in)
	v.dec.UseNumber()
	return v
}

func (v *values) token() (json.Token, error) {
	v.in.left = maxToken
	t, err := v.dec.Token()
	return t, noEOF(err)
}

func (v *values) more() bool {
	v.in.left = maxToken
	return v.dec.More()
}

// wrongValue is the error for a value of another kind than it has to be.
type wrongValue struct {
	got  json.Token
	want string
}

// Error implements error.
func (e *wrongValue) Error() string {
	return fmt.Sprintf("there is %.50q where %s has to be", fmt.Sprint(e.got), e.want)
}

// object calls member for each member of an object, which has to read its value. None may
// come twice.
func (v *values) object(member func(key string) error) error {
	t, err := v.token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return &wrongValue{t, "a {"}
	}
	return v.members(member)
}

// members is object behind the first brace.
func (v *values) members(member func(key string) error) error {
	var seen []string
	for v.more() {
		t, err := v.token()
		if err != nil {
			return err
		}
		key, _ := t.(string) // the decoder admits nothing else
		if slices.Contains(seen, key) || len(seen) == maxNested {
			return fmt.Errorf("%.50q comes twice in an object, or that has more than %d members", key, maxNested)
		}
		seen = append(seen, key)
		if err := member(key); err != nil {
			return err
		}
	}
	_, err := v.token()
	return err
}

// array calls element for each element of an array, which has to read it. Null is none.
func (v *values) array(element func() error) error {
	switch t, err := v.token(); {
	case err != nil:
		return err
	case t == nil:
		return nil
	case t != json.Delim('['):
		return &wrongValue{t, "a ["}
	}
	for v.more() {
		if err := element(); err != nil {
			return err
		}
	}
	_, err := v.token()
	return err
}

// skip passes over a value.
func (v *values) skip() error {
	t, err := v.token()
	if err != nil {
		return err
	}
	return v.skipRest(t)
}

// skipRest passes over what follows of a value whose first token is t.
func (v *values) skipRest(t json.Token) error {
	for depth := 0; ; {
		switch t {
		case json.Delim('['), json.Delim('{'):
			if depth++; depth > maxNested {
				return errNested
			}
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
		if depth == 0 {
			return nil
		}
		var err error
		if t, err = v.token(); err != nil {
			return err
		}
	}
}

// end reads the end of all.
func (v *values) end() error {
	v.in.left = maxToken
	switch _, err := v.dec.Token(); {
	case err == nil:
		return errors.New("something follows behind it")
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// text reads a string.
func text[T ~string](v *values, to *T) error {
	t, err := v.token()
	if err != nil {
		return err
	}
	s, ok := t.(string)
	if !ok {
		return v.wrong(t, "a text")
	}
	same, known := v.known[s]
	if !known {
		same = s
		v.known[s] = s
	}
	*to = T(same)
	return nil
}

// number reads a whole number.
func (v *values) number(to *int64) error {
	t, err := v.token()
	if err != nil {
		return err
	}
	n, ok := t.(json.Number)
	if !ok {
		return v.wrong(t, "a number")
	}
	if *to, err = n.Int64(); err != nil {
		return &wrongValue{t, "a whole number"}
	}
	return nil
}

// flag reads true or false.
func (v *values) flag(to *bool) error {
	t, err := v.token()
	if err != nil {
		return err
	}
	b, ok := t.(bool)
	if !ok {
		return v.wrong(t, "true or false")
	}
	*to = b
	return nil
}

// wrong passes over the value that begins with t, and returns the error for it.
func (v *values) wrong(t json.Token, want string) error {
	if err := v.skipRest(t); err != nil {
		return err
	}
	return &wrongValue{t, want}
}

// decodeDescription reads a description and validates it. All that takes memory is judged
// as it is read: a description that is not valid takes little of it.
func decodeDescription(p []byte) (Description, error) {
	d, err := descriptionOf(newValues(bytes.NewReader(p)))
	if err != nil && !errors.Is(err, ErrInvalid) {
		err = invalid("its description: %w", err)
	}
	if err != nil {
		return Description{}, err
	}
	return d, d.Validate()
}

func descriptionOf(v *values) (d Description, err error) {
	first := true
	err = v.object(func(key string) error {
		if first != (key == "version") {
			return errors.New("it does not begin with its version")
		}
		first = false
		switch key {
		case "version":
			var version int64
			if err := v.number(&version); err != nil {
				return err
			}
			if version != Version {
				return invalid("it has version %d of the format, and this program reads %d: use one that is not older than what made it", version, Version)
			}
			d.Version = Version
			return nil
		case "images":
			return v.array(func() error {
				if len(d.Images) == maxImages {
					return fmt.Errorf("it has more than %d images", maxImages)
				}
				i, err := imageOf(v)
				d.Images = append(d.Images, i)
				return err
			})
		case "contents":
			return v.array(func() error {
				if len(d.Contents) == maxContents {
					return fmt.Errorf("it has more than %d manifests and blobs", maxContents)
				}
				c, err := contentOf(v)
				if err == nil {
					err = validDigest(c.Digest)
				}
				d.Contents = append(d.Contents, c)
				return err
			})
		}
		return v.skip()
	})
	if err == nil && first {
		err = invalid("it has version 0 of the format: its description says none")
	}
	if err == nil {
		err = v.end()
	}
	return d, err
}

// imageOf reads an image.
func imageOf(v *values) (i Image, err error) {
	err = v.object(func(key string) error {
		switch key {
		case "remote":
			return text(v, &i.Remote)
		case "repository":
			return text(v, &i.Repository)
		case "tag":
			return text(v, &i.Tag)
		case "digest":
			return text(v, &i.Digest)
		case "mediaType":
			return text(v, &i.MediaType)
		case "size":
			return v.number(&i.Size)
		case "attached":
			return v.flag(&i.Attached)
		case "platforms":
			return v.array(func() error {
				var p string
				err := text(v, &p)
				if err == nil {
					err = checkPlatform(p, len(i.Platforms))
				}
				i.Platforms = append(i.Platforms, p)
				return err
			})
		case "manifests":
			return v.array(func() error {
				m, err := manifestOf(v)
				i.Manifests = append(i.Manifests, m)
				return err
			})
		case "blobs":
			return v.array(func() error {
				var dgst digest.Digest
				err := text(v, &dgst)
				if err == nil {
					err = validDigest(dgst)
				}
				i.Blobs = append(i.Blobs, dgst)
				return err
			})
		}
		return v.skip()
	})
	if err == nil {
		err = i.checkName()
	}
	if err == nil {
		err = checkMediaType(i.MediaType)
	}
	if err != nil {
		err = fmt.Errorf("image %.300q: %w", i.Reference(), err)
	}
	return i, err
}

// manifestOf reads a manifest of an image.
func manifestOf(v *values) (m Manifest, err error) {
	err = v.object(func(key string) error {
		switch key {
		case "digest":
			return text(v, &m.Digest)
		case "mediaType":
			return text(v, &m.MediaType)
		}
		return v.skip()
	})
	if err == nil {
		err = validDigest(m.Digest)
	}
	if err == nil {
		err = checkMediaType(m.MediaType)
	}
	return m, err
}

// contentOf reads a content, valid or not.
func contentOf(v *values) (c Content, err error) {
	err = v.object(func(key string) error {
		switch key {
		case "digest":
			return text(v, &c.Digest)
		case "size":
			return v.number(&c.Size)
		case "absent":
			return v.flag(&c.Absent)
		case "offset":
			return v.number(&c.Offset)
		}
		return v.skip()
	})
	return c, err
}

// annotationOf returns an annotation of an index.json.
func annotationOf(index []byte, name string) (value string, err error) {
	v := newValues(bytes.NewReader(index))
	err = v.object(func(key string) error {
		if key != "annotations" {
			return v.skip()
		}
		return v.object(func(key string) error {
			if key != name {
				return v.skip()
			}
			return text(v, &value)
		})
	})
	if err == nil {
		err = v.end()
	}
	return value, err
}
