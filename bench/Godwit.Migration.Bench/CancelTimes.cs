using System.Diagnostics;
using System.Globalization;

namespace Godwit.Migration.Bench;

/// <summary>
/// How long a cancel takes, at random moments of a migration: until the machine is as it was, and until the migration's end is told. The
/// destination takes what comes, or takes nothing because its process is stopped.
/// </summary>
internal static class CancelTimes
{
    public static void Measure(IdleMachine machine, OtherProcess destination, string uri, TimeSpan whole, int repeat, bool stopped)
    {
        var random = new Random(1);
        var back = new List<double>();
        var told = new List<double>();
        for (int i = 0; i < repeat; i++)
        {
            TimeSpan after = whole * random.NextDouble();
            if (stopped)
                destination.Pause(false);
            using var controller = new MigrationController(machine, TimeProvider.System);
            using var begun = new ManualResetEventSlim();
            using var ended = new ManualResetEventSlim();
            // The largest there is: a switchover is not what is measured here.
            controller.Parameters = new MigrationParameters { MinimumPrecopy = TimeSpan.FromHours(1) };
            controller.StateChanged += state =>
            {
                if (state == MigrationState.Active)
                    begun.Set();
                if (state is MigrationState.Cancelled or MigrationState.Failed)
                    ended.Set();
            };
            Start(controller, uri, begun, ended);
            Thread.Sleep(after);
            if (stopped)
            {
                destination.Pause(true);
                Thread.Sleep(50); // what fits the socket goes
            }

            long began = Stopwatch.GetTimestamp();
            controller.Cancel();
            ended.Wait();
            told.Add(Stopwatch.GetElapsedTime(began).TotalMilliseconds);
            back.Add(Stopwatch.GetElapsedTime(began, machine.TakenBackAt).TotalMilliseconds);
            if (controller.Status.State != MigrationState.Cancelled)
                throw new InvalidOperationException(controller.Status.Error);
        }

        if (stopped)
            destination.Pause(false);
        Print(stopped ? "takes nothing" : "takes all", back, told);
    }

    /// <summary>Starts it as soon as the destination has done with the one before.</summary>
    private static void Start(MigrationController controller, string uri, ManualResetEventSlim begun, ManualResetEventSlim ended)
    {
        for (; ; )
        {
            ended.Reset();
            controller.Start(uri);
            if (WaitHandle.WaitAny([begun.WaitHandle, ended.WaitHandle]) == 0)
                return;
            if (controller.Status.Error?.Contains("busy", StringComparison.Ordinal) != true)
                throw new InvalidOperationException(controller.Status.Error);
            Thread.Sleep(20);
        }
    }

    private static void Print(string destination, List<double> back, List<double> told) => Console.WriteLine(string.Create(
        CultureInfo.InvariantCulture,
        $"{destination,-14} {Middle(back),8:0.0} {back.Max(),8:0.0} {Middle(told),12:0.0} {told.Max(),8:0.0}"));

    private static double Middle(List<double> times) => times.Order().ElementAt(times.Count / 2);
}
