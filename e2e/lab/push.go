package lab

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Push puts images into the upstream's registry, past its gateway: the ledger
// does not see it.
func (u *Upstream) Push(ctx context.Context, images ...Image) error {
	for _, img := range images {
		if err := u.push(ctx, img); err != nil {
			return fmt.Errorf("pushing %s: %w", img.ByTag(u.Registry.Addr), err)
		}
	}
	return nil
}

func (u *Upstream) push(ctx context.Context, img Image) error {
	authorization := ""
	switch {
	case u.tokens != nil:
		token, err := u.tokens.token("repository:"+img.Repo+":pull,push", time.Now())
		if err != nil {
			return err
		}
		authorization = "Bearer " + token
	case u.Username != "":
		authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username+":"+u.Password))
	}
	return pusher{u.Registry.URL() + "/v2/" + img.Repo, authorization}.image(ctx, img)
}

// image pushes what an image is made of, and then its tag.
func (p pusher) image(ctx context.Context, img Image) error {
	for _, b := range img.Blobs {
		if err := p.blob(ctx, b); err != nil {
			return err
		}
	}
	for _, m := range img.Manifests {
		if err := p.manifest(ctx, m, m.Digest.String()); err != nil {
			return err
		}
	}
	return p.manifest(ctx, img.Root(), img.Tag)
}

// pusher pushes to the repository at a URL.
type pusher struct {
	url           string
	authorization string // the header; empty for none
}

// blob uploads as the distribution specification describes under "POST then
// PUT", unless the registry has it.
func (p pusher) blob(ctx context.Context, b RawBlob) error {
	resp, err := p.do(ctx, http.MethodHead, p.url+"/blobs/"+b.Digest.String(), "", nil, 0, http.StatusOK, http.StatusNotFound)
	if err != nil || resp.StatusCode == http.StatusOK {
		return err
	}
	resp, err = p.do(ctx, http.MethodPost, p.url+"/blobs/uploads/", "", nil, 0, http.StatusAccepted)
	if err != nil {
		return err
	}
	to, err := resp.Location()
	if err != nil {
		return err
	}
	query := to.Query()
	query.Set("digest", b.Digest.String())
	to.RawQuery = query.Encode()
	_, err = p.do(ctx, http.MethodPut, to.String(), "application/octet-stream", b.Open(), b.Size, http.StatusCreated)
	return err
}

func (p pusher) manifest(ctx context.Context, m RawManifest, ref string) error {
	_, err := p.do(ctx, http.MethodPut, p.url+"/manifests/"+url.PathEscape(ref), m.MediaType,
		bytes.NewReader(m.Bytes), int64(len(m.Bytes)), http.StatusCreated)
	return err
}

// do sends a request and expects one of the statuses. The answer's body is
// read and closed.
func (p pusher) do(ctx context.Context, method, url, mediaType string, body io.Reader, size int64, want ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.ContentLength = size
		if size == 0 {
			req.Body = http.NoBody // a length of 0 with a body means unknown
		}
		req.Header.Set("Content-Type", mediaType)
	}
	if p.authorization != "" {
		req.Header.Set("Authorization", p.authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // an error's text
	if err != nil {
		return nil, err
	}
	if !slices.Contains(want, resp.StatusCode) {
		return nil, fmt.Errorf("%s %s: %s\n%s", method, url, resp.Status, answer)
	}
	return resp, nil
}
