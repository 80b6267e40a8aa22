// What the pages do, typed: log in, list the chips, and ask for a QR code until it is scanned.
// Compiled in CI against wahafleet.d.ts; it is never run there.

import type { components, paths } from "./wahafleet";

type Chip = components["schemas"]["Chip"];
type QrCode = components["schemas"]["QrCode"];
type Problem = components["schemas"]["Problem"];
type Login = paths["/api/v1/auth/login"]["post"]["requestBody"]["content"]["application/json"];
type Session = components["schemas"]["Session"];

/** A refusal: `message` is for people, `problem.code` for programs. */
export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

async function answered<T>(answer: Response): Promise<T> {
  if (!answer.ok) throw new Refused((await answer.json()) as Problem);
  return (await answer.json()) as T;
}

export async function logIn(login: Login): Promise<string> {
  const answer = await fetch("/api/v1/auth/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(login),
  });
  return (await answered<Session>(answer)).tokens.access_token;
}

export async function chips(token: string): Promise<Chip[]> {
  const answer = await fetch("/api/v1/chips", { headers: { Authorization: `Bearer ${token}` } });
  return answered<Chip[]>(answer);
}

/** Shows each QR code until WAHA says WORKING; `message` says why there is none. */
export async function scan(token: string, chip: Chip, show: (image: string | null, message: string) => void): Promise<void> {
  for (;;) {
    const answer = await fetch(`/api/v1/chips/${chip.id}/qr`, { headers: { Authorization: `Bearer ${token}` } });
    const code = await answered<QrCode>(answer);
    show(code.qr, code.message);
    if (code.status === "WORKING") return;
    await new Promise((again) => setTimeout(again, 3000));
  }
}

export function place(chip: Chip): string {
  const port: number | null = chip.extra_data.waha_plus_port;
  return port === null ? (chip.extra_data.reason_text ?? "") : `${chip.extra_data.node ?? "?"}:${port}`;
}
