// Evaluates requests against an IAM policy. Each line of standard input is one question, a JSON object. The
// line that answers it has a verdict for each request. It ends when its standard input is closed.
// The first argument is the folder with the package in its node_modules.

import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const { runSimulation } = createRequire(`${process.argv[2]}/`)('@cloud-copilot/iam-simulate')

async function verdict(policy, account, { action, resource, context }) {
  const principal = `arn:aws:iam::${account}:user/tests`
  const simulation = {
    request: { principal, action, resource: { resource, accountId: account }, contextVariables: context },
    identityPolicies: [{ name: 'policy', policy }],
    serviceControlPolicies: [],
    resourceControlPolicies: [],
  }
  const result = await runSimulation(simulation, {})
  return result.resultType === 'error' ? `Error: ${JSON.stringify(result)}` : result.overallResult
}

for await (const line of createInterface({ input: process.stdin })) {
  const { policy, account, requests } = JSON.parse(line)
  const verdicts = []
  for (const request of requests) verdicts.push(await verdict(policy, account, request))
  process.stdout.write(`${JSON.stringify(verdicts)}\n`)
}
