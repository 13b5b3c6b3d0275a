// A hand of tests/hosts/contest.rs that locks with proper-lockfile.
const readline = require('readline');
const lockfile = require('proper-lockfile');

const { LOCK } = process.env;
let release;
(async () => {
    for await (const line of readline.createInterface({ input: process.stdin })) {
        try {
            if (line === 'acquire') {
                release = await lockfile.lock('of nothing', { lockfilePath: LOCK, realpath: false, retries: 0 });
            } else {
                await release();
            }
            console.log('ok');
        } catch (error) {
            console.log(`no ${error.code}: ${error.message}`);
        }
    }
})();
