// Package ext stands for the extension point of Traefik's configuration, which lies in a module of its own that is not
// published: nothing is extended here.
package ext

// HTTP adds nothing to the configuration.
type HTTP struct{}

// DeepCopyInto copies nothing.
func (in *HTTP) DeepCopyInto(out *HTTP) { *out = *in }

// Router adds nothing to a router.
type Router struct{}

// DeepCopyInto copies nothing.
func (in *Router) DeepCopyInto(out *Router) { *out = *in }
