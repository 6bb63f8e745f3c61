// Package rig pins what the tests need beside the commands: the custom resource definitions that lie in the Gateway API
// module.
package rig

import _ "sigs.k8s.io/gateway-api/pkg/consts"
