package lab

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// CreateImage pulls as edgeAgent does: one request to the engine's API, with the
// credentials in a header, which ends the pull when it is cancelled. The error is what
// the engine says.
func (d *Docker) CreateImage(ctx context.Context, ref string) error {
	name, tag, digested := strings.Cut(ref, "@")
	if !digested {
		i := strings.LastIndexByte(ref, ':')
		name, tag = ref[:i], ref[i+1:]
	}
	query := url.Values{"fromImage": {name}, "tag": {tag}}
	registry, _, _ := strings.Cut(name, "/")
	resp, err := d.api(ctx, http.MethodPost, "/images/create?"+query.Encode(), registry)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for progress := json.NewDecoder(resp.Body); ; {
		var line struct{ Error, Message string }
		err := progress.Decode(&line)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("pulling %s: %w", ref, err)
		case line.Error+line.Message != "":
			return fmt.Errorf("pulling %s: %s", ref, line.Error+line.Message)
		}
	}
}

// HasImage tells whether the engine has an image, and under which digests.
func (d *Docker) HasImage(ctx context.Context, ref string) (digests []string, err error) {
	resp, err := d.api(ctx, http.MethodGet, "/images/"+ref+"/json", "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var image struct{ RepoDigests []string }
	if err := json.NewDecoder(resp.Body).Decode(&image); err != nil {
		return nil, fmt.Errorf("looking for %s: %w", ref, err)
	}
	for _, name := range image.RepoDigests {
		if _, dgst, ok := strings.Cut(name, "@"); ok {
			digests = append(digests, dgst)
		}
	}
	return digests, nil
}

// api sends a request to the engine, with the user's password for a registry.
func (d *Docker) api(ctx context.Context, method, target, registry string) (*http.Response, error) {
	socket := strings.TrimPrefix(d.host(), "unix://")
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker/v1.25"+target, nil)
	if err != nil {
		return nil, err
	}
	if d.at.Username != "" && registry != "" {
		auth, err := json.Marshal(map[string]string{
			"username": d.at.Username, "password": d.at.Password, "serveraddress": registry,
		})
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-Registry-Auth", base64.URLEncoding.EncodeToString(auth))
	}
	return client.Do(req)
}
