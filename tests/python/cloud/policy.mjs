// Evaluates requests against an IAM policy. It listens on loopback, and prints its port. Each line of a connection is one
// question, a JSON object. The line that answers it has a verdict for each request. It ends when its standard input is
// closed. The first argument is the folder with the package in its node_modules.

import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'

const { runSimulation } = createRequire(`${process.argv[2]}/`)('@cloud-copilot/iam-simulate')

// The verdicts so far, since most calls are repeated.
const known = new Map()

async function verdict(policy, account, request) {
  const question = JSON.stringify([policy, account, request])
  if (!known.has(question)) known.set(question, await evaluate(policy, account, request))
  return known.get(question)
}

async function evaluate(policy, account, { action, resource, context }) {
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

async function answer(connection) {
  for await (const line of createInterface({ input: connection })) {
    const { policy, account, requests } = JSON.parse(line)
    const verdicts = []
    for (const request of requests) verdicts.push(await verdict(policy, account, request))
    connection.write(`${JSON.stringify(verdicts)}\n`)
  }
}

const server = createServer((connection) => {
  // A cloud may end at any time.
  connection.on('error', () => connection.destroy())
  answer(connection).catch((error) => {
    console.error(error)
    connection.destroy()
  })
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.stdin.on('end', () => process.exit()).resume()
