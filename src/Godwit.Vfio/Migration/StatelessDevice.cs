using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>
/// A device that has no migration states and moves without its own (<see cref="EnableMigration.Force"/>): the guest finds one there that has been reset. What
/// must hold all the same is that no page of memory is lost, so its DMA is held back, by Bus Master Enable, before the last pages are looked at. That keeps it from other
/// devices, too. Held back is called STOP here.
/// </summary>
/// <param name="device">Id for messages.</param>
/// <param name="holdDma">
/// Holds the device's DMA back (true) or lets it go on. When the former returns, all that it has written is in memory.
/// </param>
/// <param name="notices">Told what an operator should know.</param>
internal sealed class StatelessDevice(string device, Action<bool> holdDma, NoticeBoard notices) : IDeviceStates
{
    private int _state = (int)DeviceMigrationState.Running;
    private bool _held; // or it was tried
    private bool _heldBefore;

    /// <inheritdoc/>
    public MigrationSupport Support => MigrationSupport.None;

    /// <inheritdoc/>
    public DeviceMigrationState State => (DeviceMigrationState)Volatile.Read(ref _state);

    /// <inheritdoc/>
    public event Action? Changed;

    /// <inheritdoc/>
    public void BeginSave()
    {
        _heldBefore = _held;
        notices.Post($"{device}: this migration leaves the state of the device behind (enable-migration=force): the guest finds one there that has been reset");
    }

    /// <inheritdoc/>
    public void Quiesce() => Hold();

    /// <inheritdoc/>
    public void StopAndCopy() => Hold();

    /// <inheritdoc/>
    public void EndSave() { }

    /// <inheritdoc/>
    public DeviceRehearsal? Rehearse(TimeProvider clock)
    {
        Hold();
        long began = clock.GetTimestamp();
        LetGo();
        return new DeviceRehearsal(TimeSpan.Zero, clock.GetElapsedTime(began));
    }

    /// <summary>It has been reset when it was attached, and nobody has used it since; the guest's command register, which comes now, must not let it begin.</summary>
    public void BeginLoad()
    {
        _heldBefore = _held;
        Hold();
    }

    /// <inheritdoc/>
    public void EndLoad() { }

    /// <inheritdoc/>
    public void StartPeers() { }

    /// <inheritdoc/>
    public void StartAll() => LetGo();

    /// <summary>It cannot be stopped, and runs on while the machine is paused; one that was held back goes on with the machine.</summary>
    public void SetRunning(bool running)
    {
        if (running)
            LetGo();
    }

    /// <inheritdoc/>
    public int Read(Span<byte> buffer) => 0;

    /// <inheritdoc/>
    /// <exception cref="IOException">There is some: it is another device's.</exception>
    public void Write(ReadOnlySpan<byte> chunk)
    {
        if (!chunk.IsEmpty)
            throw new IOException($"{device} takes no state, and {chunk.Length} bytes have come for it");
    }

    /// <inheritdoc/>
    public void ResetByGuest() { }

    /// <inheritdoc/>
    public void Recover()
    {
        if (!_held || _heldBefore)
            return;
        try
        {
            LetGo();
            notices.Post($"{device}: its DMA was held back for a migration that did not take place, and goes on; a transfer that it wanted to make meanwhile may be lost");
        }
        catch (DeviceRefusedException e)
        {
            notices.Post($"{device}: its DMA was held back for a migration, and cannot be let go on: {e.Message}");
        }
        catch (DeviceLostException e)
        {
            notices.PostOnce(NoticeKind.Lost, $"{device}: the device has gone: {e.Message}");
        }
    }

    /// <summary>Always anew, whatever it was before: pages are lost if it is not so.</summary>
    private void Hold()
    {
        _held = true;
        holdDma(true);
        Set(DeviceMigrationState.Stop);
    }

    private void LetGo()
    {
        if (!_held)
            return;
        holdDma(false);
        _held = false;
        Set(DeviceMigrationState.Running);
    }

    private void Set(DeviceMigrationState state)
    {
        if (Interlocked.Exchange(ref _state, (int)state) != (int)state)
            Changed?.Invoke();
    }
}
