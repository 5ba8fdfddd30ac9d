"""An OCI registry, spoken to by its protocol: references, authorisation, manifests, blobs, referrers."""
