package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/seed"
	"registry-module/server/admin"
)

// adminActions are what can be changed by the admin address, as commands do it.
type adminActions struct{ p *program }

var _ admin.Actions = adminActions{}

// images are those of the current configuration.
func (a adminActions) images() imageControl { return a.p.current.Load().images }

// Pin implements admin.Actions.
func (a adminActions) Pin(ctx context.Context, pattern string) (string, error) {
	done, err := a.images().Pin(ctx, pattern)
	if err != nil {
		return "", adminError(err)
	}
	var text strings.Builder
	for _, p := range done {
		text.WriteString(pinnedText(p))
	}
	return sentence(text.String()), nil
}

// Unpin implements admin.Actions.
func (a adminActions) Unpin(ctx context.Context, pattern string) (string, error) {
	done, err := a.images().Unpin(ctx, pattern)
	switch {
	case err != nil:
		return "", adminError(err)
	case len(done.Remaining) > 0:
		return "", fmt.Errorf("%w by the configuration (%s): take it out there", cache.ErrPinned, policyPlace)
	case len(done.Removed) == 0:
		return "", fmt.Errorf("%w: there is no such pin", cache.ErrNotFound)
	}
	return "unpinned " + pattern, nil
}

// Remove implements admin.Actions.
func (a adminActions) Remove(ctx context.Context, r admin.Removal) (string, error) {
	done, err := a.images().Remove(ctx, removeOptions{Image: r.Image, All: r.All, Force: r.Force})
	if err != nil {
		return "", adminError(err)
	}
	return sentence(removalText(done)), nil
}

// Refresh implements admin.Actions.
func (a adminActions) Refresh(ctx context.Context, image string) (string, error) {
	repository, tag, dgst := config.CutReference(image)
	if dgst != "" || tag == "" {
		return "", fmt.Errorf("%w: what a tag stands for can be asked: write NAME:TAG", admin.ErrInvalid)
	}
	g := a.p.current.Load()
	places, name, err := g.images.names.routed(repository)
	if err != nil {
		return "", err
	}
	called := a.p.cache.Name(name, places...)
	before, beforeErr := called.CachedTag(ctx, tag)
	now, err := called.Fresh().Tag(ctx, tag)
	switch {
	case err != nil:
		return "", err
	case now.Stale != nil:
		return "", fmt.Errorf("it could not be confirmed, and stays as it is: %w", now.Stale)
	case beforeErr == nil && before.Digest == now.Digest:
		return image + " is up to date", nil
	}
	return image + " is " + now.Digest.String() + " now", nil
}

// Seed implements admin.Actions. The job goes on in the background.
func (a adminActions) Seed(_ context.Context, job admin.SeedJob) (string, error) {
	wanted := seed.Job{}
	for _, image := range job.Images {
		wanted.Wants = append(wanted.Wants, seed.Want{Image: image, Platforms: job.Platforms})
	}
	if err := wanted.Validate(); err != nil {
		return "", fmt.Errorf("%w: %w", admin.ErrInvalid, err)
	}
	// Of the program, since nobody waits for it; it is not to wait for another one.
	ctx := a.p.ctx
	end, err := a.p.seeds.begin(ctx, "by the dashboard", false)
	if err != nil {
		return "", adminError(err)
	}
	a.p.jobs.Go(func() {
		defer end()
		report, err := a.p.seeds.run(ctx, wanted, nil)
		a.p.recorder.ImagesChanged()
		if err = reportError(report, err); err != nil && ctx.Err() == nil {
			a.p.log.WithError(err).Warn("seeding, as asked for by the admin address, has failed")
			a.p.recorder.Problem("Seeding "+strings.Join(job.Images, ", ")+" has failed: "+oneLine(err.Error()), "")
		}
	})
	return "seeding has begun: " + strings.Join(job.Images, ", "), nil
}

// SetOffline implements admin.Actions.
func (a adminActions) SetOffline(ctx context.Context, mode string) (string, error) {
	s, err := a.p.offline.SetOffline(ctx, mode)
	return s.String(), err
}

// Reload implements admin.Actions.
func (a adminActions) Reload(ctx context.Context) (string, error) {
	if a.p.reloader == nil {
		return "", errNoReload
	}
	report, err := a.p.reloader.Reload(ctx)
	switch {
	case err != nil:
		return "", err
	case len(report.Errors) > 0:
		return "", fmt.Errorf("%w: %s", admin.ErrInvalid, strings.Join(report.Errors, "; "))
	}
	return sentence(report.String()), nil
}

// adminError is err by a kind that package admin knows.
func adminError(err error) error {
	switch {
	case errors.Is(err, errBadPattern):
		return fmt.Errorf("%w: %w", admin.ErrInvalid, err)
	case errors.Is(err, errBusy):
		return fmt.Errorf("%w: %w", admin.ErrBusy, err)
	}
	return err
}

// sentence makes one line of what a command would print.
func sentence(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
}
