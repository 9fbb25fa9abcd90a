#!/bin/sh
# Makes the files of this directory anew, with registry-module from the PATH. Change the
# names, the image and the remote registries to your own.
set -eu
cd "$(dirname "$0")"
mkdir -p top middle bottom

registry-module deploy iotedge --layer top \
    --hostname top.site.example \
    --image contoso.azurecr.io/registry-module:1.0 \
    --upstream https://mcr.microsoft.com \
    --upstream https://contoso.azurecr.io,username=site-pull \
    --htpasswd /etc/registry-module/htpasswd --policy /etc/registry-module/policy.yml \
    --max-size 8GiB --blob --metrics \
    --output top --force

registry-module deploy iotedge --layer middle --cache \
    --hostname middle.site.example --parent-hostname top.site.example \
    --image contoso.azurecr.io/registry-module:1.0 \
    --upstream https://mcr.microsoft.com --upstream https://contoso.azurecr.io \
    --htpasswd /etc/registry-module/htpasswd --policy /etc/registry-module/policy.yml \
    --max-size 4GiB \
    --output middle --force

registry-module deploy iotedge --layer bottom \
    --hostname bottom.site.example --parent-hostname middle.site.example \
    --output bottom --force

registry-module deploy iotedge --layer top --layered \
    --image contoso.azurecr.io/registry-module:1.0 \
    --upstream https://mcr.microsoft.com \
    --upstream https://contoso.azurecr.io,username=site-pull \
    --htpasswd /etc/registry-module/htpasswd --policy /etc/registry-module/policy.yml \
    --max-size 8GiB --blob --metrics \
    >top/layered.json

registry-module deploy iotedge --layer middle --layered --cache \
    --image contoso.azurecr.io/registry-module:1.0 \
    --upstream https://mcr.microsoft.com --upstream https://contoso.azurecr.io \
    --htpasswd /etc/registry-module/htpasswd --policy /etc/registry-module/policy.yml \
    --max-size 4GiB \
    >middle/layered.json

registry-module deploy iotedge --layer bottom --layered \
    >bottom/layered.json
