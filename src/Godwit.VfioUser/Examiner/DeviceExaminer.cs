using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// Drives a vfio-user device through the protocol, right and wrong, and says what it does well and what not. The device is reset, mapped,
/// migrated and left by force: nobody else may use it meanwhile. It must not be driven by a guest.
/// </summary>
/// <remarks>Lives in this room because it says what no client would, for which it needs the wire; device authors get it with the package.</remarks>
public static class DeviceExaminer
{
    /// <summary>
    /// Checks in a row for which the device could not be made ready after which nobody asks it any more: one that hangs would take its time
    /// for each of the others.
    /// </summary>
    internal const int Patience = 3;

    /// <summary>All checks in order; those that end connections come last, as some servers do not survive it.</summary>
    internal static IReadOnlyList<Check> Checks { get; } =
    [
        .. NegotiationChecks.OnOneConnection,
        .. MessageChecks.All,
        .. InfoChecks.All,
        .. DoorbellChecks.All,
        .. RegionChecks.All,
        .. ConfigChecks.All,
        .. InterruptChecks.All,
        .. DmaChecks.All,
        .. ArcChecks.All,
        .. StateChecks.All,
        .. LoggingChecks.All,
        .. DirtyChecks.All,
        .. NegotiationChecks.OnConnectionsOfTheirOwn,
        .. ExtensionChecks.All,
        .. ConnectionChecks.All,
    ];

    /// <summary>Examines.</summary>
    /// <param name="options">Whom.</param>
    /// <param name="progress">Told each result as it comes.</param>
    /// <exception cref="LinuxException">Nobody listens at the socket, or at the second one.</exception>
    public static ExaminationReport Run(DeviceExaminerOptions options, Action<CheckResult>? progress = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        return Run(options, Checks, progress);
    }

    /// <summary>Examines in some respects.</summary>
    internal static ExaminationReport Run(DeviceExaminerOptions options, IReadOnlyList<Check> checks, Action<CheckResult>? progress = null)
    {
        ExaminerPeer.Connect(options.Socket, options.ReplyTimeout).Dispose();
        if (options.Second is not null)
            ExaminerPeer.Connect(options.Second, options.ReplyTimeout).Dispose();
        var results = new List<CheckResult>();
        using var examination = new Examination(options);
        int unready = 0;
        foreach (Check check in checks)
        {
            CheckResult result = unready < Patience
                ? Run(check, examination, ref unready)
                : new CheckResult(check.Name, check.Meaning, CheckOutcome.Fail, $"not looked at: for {Patience} checks in a row the device was not there or did not answer");
            results.Add(result);
            progress?.Invoke(result);
        }
        return new ExaminationReport(results);
    }

    private static CheckResult Run(Check check, Examination examination, ref int unready)
    {
        try
        {
            unready++;
            examination.Settle();
            unready = 0;
            check.Body(examination);
            return new CheckResult(check.Name, check.Meaning, CheckOutcome.Pass, null);
        }
        catch (CheckException e)
        {
            if (e.ConnectionIsUnusable)
                examination.Disconnect();
            return new CheckResult(check.Name, check.Meaning, e.Outcome, e.Message);
        }
        catch (LinuxException e)
        {
            examination.Disconnect();
            return new CheckResult(check.Name, check.Meaning, CheckOutcome.Fail, $"the device cannot be connected to: {e.Message}");
        }
    }
}
