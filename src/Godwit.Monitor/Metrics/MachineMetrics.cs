using System.Diagnostics.Metrics;
using Godwit.Iommu.Intel;
using Godwit.Machine;
using Godwit.Migration;

namespace Godwit.Monitor;

/// <summary>
/// One machine's numbers as instruments of <see cref="System.Diagnostics.Metrics"/>, for any listener in the process. All are observed: who
/// does not listen pays nothing. Names and units follow OpenTelemetry's conventions.
/// </summary>
public sealed class MachineMetrics : IDisposable
{
    /// <summary>Name of the meter.</summary>
    public const string MeterName = "Godwit";

    private readonly VirtualMachine _machine;
    private readonly KeyValuePair<string, object?> _name;
    private long _completed;
    private long _failed;
    private long _cancelled;

    /// <summary>Creates the instruments. The machine must outlive them.</summary>
    public MachineMetrics(VirtualMachine machine)
    {
        _machine = machine;
        _name = new("machine", machine.Config.Name);
        Meter = new Meter(MeterName);
        machine.Migration.StateChanged += OnStateChanged;
        Gauge("godwit.machine.running", "", "Whether the guest executes here.", static m => m.RunState == RunState.Running ? 1 : 0);
        Migration("godwit.migration.active", "", "Whether a migration is going on.", static s => IsActive(s.State) ? 1 : 0);
        Migration("godwit.migration.ram.total", "By", "RAM of the machine.", static s => s.RamTotalBytes);
        Migration("godwit.migration.ram.remaining", "By", "RAM that is still to be sent.", static s => s.RamRemainingBytes);
        Migration("godwit.migration.ram.transferred", "By", "Contents of pages in the current or last migration.", static s => s.RamTransferredBytes);
        Migration("godwit.migration.device_state.transferred", "By", "States of devices in it.", static s => s.DeviceStateBytes);
        Migration("godwit.migration.throughput", "By/s", "What the link takes.", static s => s.BytesPerSecond);
        Migration("godwit.migration.rounds", "", "Rounds of pre-copy in it.", static s => s.Rounds.Count == 0 ? 0 : s.Rounds[^1].Number);
        Migration("godwit.migration.duration", "s", "Time since it began, or that it took.", static s => s.TotalTime.TotalSeconds);
        Migration("godwit.migration.downtime.expected", "s", "Downtime if the guest were stopped now.", static s => s.ExpectedDowntime?.TotalSeconds ?? 0);
        Migration("godwit.migration.downtime", "s", "Downtime of the last one that completed here as the source.", static s => s.Downtime?.Total.TotalSeconds ?? 0);
        Meter.CreateObservableGauge("godwit.migration.dirty_pages", DirtyPages, "{page}/s", "Pages dirtied a second, by who wrote them.");
        Meter.CreateObservableCounter("godwit.migrations", Outcomes, "", "Migrations that have ended, by how.");
        if (machine.IommuChurn is not null)
        {
            Gauge("godwit.iommu.mappings", "", "Mappings of the vIOMMU that are installed.", static m => m.IommuChurn?.Live ?? 0);
            Counter("godwit.iommu.mapped", "Mappings made.", static churn => churn.Mapped);
            Counter("godwit.iommu.unmapped", "Mappings withdrawn.", static churn => churn.Unmapped);
        }
    }

    /// <summary>The meter, to be told apart from other machines' in this process.</summary>
    internal Meter Meter { get; }

    /// <inheritdoc/>
    public void Dispose()
    {
        _machine.Migration.StateChanged -= OnStateChanged;
        Meter.Dispose();
    }

    private static bool IsActive(MigrationState state) => state is not
        (MigrationState.None or MigrationState.Completed or MigrationState.Failed or MigrationState.Cancelled);

    private void OnStateChanged(MigrationState state)
    {
        switch (state)
        {
            case MigrationState.Completed:
                Interlocked.Increment(ref _completed);
                break;
            case MigrationState.Failed:
                Interlocked.Increment(ref _failed);
                break;
            case MigrationState.Cancelled:
                Interlocked.Increment(ref _cancelled);
                break;
        }
    }

    private void Gauge(string name, string unit, string description, Func<VirtualMachine, double> value) =>
        Meter.CreateObservableGauge(name, () => new Measurement<double>(value(_machine), _name), unit, description);

    private void Migration(string name, string unit, string description, Func<MigrationStatus, double> value) =>
        Gauge(name, unit, description, machine => value(machine.Migration.Status));

    private void Counter(string name, string description, Func<IommuChurn, long> value) => Meter.CreateObservableCounter(
        name, () => new Measurement<double>(_machine.IommuChurn is { } churn ? value(churn) : 0, _name), "", description);

    private IEnumerable<Measurement<double>> DirtyPages()
    {
        MigrationStatus status = _machine.Migration.Status;
        return
        [
            new(status.DirtyPagesPerSecondVcpu, _name, new("source", "vcpu")),
            new(status.DirtyPagesPerSecondDevice, _name, new("source", "device")),
            new(status.DirtyPagesPerSecondVmm, _name, new("source", "vmm")),
        ];
    }

    private IEnumerable<Measurement<double>> Outcomes() =>
    [
        new(Interlocked.Read(ref _completed), _name, new("outcome", "completed")),
        new(Interlocked.Read(ref _failed), _name, new("outcome", "failed")),
        new(Interlocked.Read(ref _cancelled), _name, new("outcome", "cancelled")),
    ];
}
