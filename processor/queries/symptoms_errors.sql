-- Services that fail more than their own past allows: in what they answer (`error_ratio`), and in what
-- their callers see (`call_errors`), for a service that is down has no server spans of its own to fail.
--
-- Judged is each window to which failures came lately, whatever its time: spans may come late, and
-- senders have clocks of their own. It is judged as the end of sums over 5, 15, 60 and 300 seconds,
-- against the ratio of the calm windows before each sum; so a service with a request a second, or a
-- few more failures than usual, is seen too, only later. The shortest sum that is above the bound
-- speaks. What fades does not count: each shorter sum must show at least half of the excess. The bound
-- is binomial (normal approximation with a continuity term): never fewer than six failures. It counts
-- the spans that were looked at; one that stands for others in a flood says no more than one.
--
-- When it began is known to the time in which one failure beyond the usual comes: it may have failed for so
-- long before anybody asked.
with judged as (
    select s.kind, s.namespace, s.service, s.bucket, s.failed, s.span_s, s.still,
           cast(s.count as double) as n, cast(s.errors as double) as e,
           cast(s.errors as double) / s.count as value,
           cast(s.past_errors as double) / s.past_count as usual,
           (s.past_errors + 0.5) / (s.past_count + 1.0) as baseline
    from sums s cross join params
    where s.past_count >= params.least
),
above as (
    select j.*, least(0.99, greatest(j.value, j.still)) as share,
           (j.e - 1.0 - j.n * j.baseline) / sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0) as score,
           row_number() over (partition by j.kind, j.namespace, j.service, j.bucket order by j.span_s) as place
    from judged j cross join params
    where j.e - 1.0 - j.n * j.baseline > params.z * sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0)
      and j.still - j.baseline >= 0.5 * (j.value - j.baseline)
),
walked as (
    -- it began where what was answered began to speak for the share of now and no more for the usual one (CUSUM of
    -- the log-likelihood ratio), so that a failure of every day shortly before does not count
    select a.*, s.bucket as step, s.first_error,
           coalesce(sum(s.errors * ln(a.share / a.baseline)
                        + (s.count - s.errors) * ln((1.0 - a.share) / (1.0 - a.baseline))) over (
               partition by a.kind, a.namespace, a.service, a.bucket order by s.bucket
               rows between unbounded preceding and 1 preceding), 0.0) as gathered
    from above a
    join answers s on s.kind = a.kind and s.namespace = a.namespace and s.service = a.service
               and s.bucket <= a.bucket
               and cast(s.bucket as bigint) > cast(a.bucket as bigint) - a.span_s * 1000000000
    where a.place = 1
),
begun as (
    select w.*, row_number() over (partition by w.kind, w.namespace, w.service, w.bucket
                                   order by w.gathered, w.step desc) as place_of_step
    from walked w
)
select b.kind, b.namespace, b.service, b.bucket, coalesce(b.first_error, b.step) as onset,
       b.failed, b.span_s, b.span_s / (b.e - b.n * b.baseline) as within_s,
       b.value, b.usual as baseline, b.score
from begun b
where b.place_of_step = 1
order by b.kind desc, b.namespace, b.service, b.bucket
