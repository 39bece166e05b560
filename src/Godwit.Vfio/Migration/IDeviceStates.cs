using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>What a device goes through when its machine moves, is paused and goes on. One caller at a time, but <see cref="State"/> may be read by any thread.</summary>
internal interface IDeviceStates
{
    /// <summary>What the device offers.</summary>
    MigrationSupport Support { get; }

    /// <summary>Its state as last known.</summary>
    DeviceMigrationState State { get; }

    /// <summary>Raised after each change.</summary>
    event Action? Changed;

    /// <summary>Source: the transfer begins, while the device runs. On failure the device is back in what it was.</summary>
    void BeginSave();

    /// <summary>Source: nothing more to other devices.</summary>
    void Quiesce();

    /// <summary>Source: no more DMA, no more interrupts.</summary>
    void StopAndCopy();

    /// <summary>Source after commit. Nothing depends on the device any more.</summary>
    void EndSave();

    /// <summary>Destination, fresh: what is to come, once with the device's own state. In any case it ends in what it was. Null when that is not worth trying.</summary>
    DeviceRehearsal? Rehearse(TimeProvider clock);

    /// <summary>Destination: state comes.</summary>
    void BeginLoad();

    /// <summary>Destination: state has come.</summary>
    void EndLoad();

    /// <summary>First phase of starting.</summary>
    void StartPeers();

    /// <summary>It runs.</summary>
    void StartAll();

    /// <summary>The machine is paused or goes on.</summary>
    void SetRunning(bool running);

    /// <summary>Reads saved state; 0 when there is none.</summary>
    int Read(Span<byte> buffer);

    /// <summary>Takes saved state between <see cref="BeginLoad"/> and <see cref="EndLoad"/>.</summary>
    void Write(ReadOnlySpan<byte> chunk);

    /// <summary>The guest has reset the device. Any thread.</summary>
    void ResetByGuest();

    /// <summary>From anywhere back to what it was before the migration. Never throws for the device's sake.</summary>
    void Recover();
}
