using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>A handover from another process of this host.</summary>
internal sealed partial class IncomingMigration
{
    private IReadOnlyList<FileDescriptor> _ramFiles = []; // not given to RAM yet

    private bool TakesOver => _channel.Files is not null;

    /// <summary>Everything up to Prepare; then RAM is the source's, as it is, and what this side writes does not get into it.</summary>
    private void TakeHandover()
    {
        _phase = "taking the files of the RAM";
        FrameHeader header = NextHeader();
        if (header.Type != FrameType.RamFiles)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "RamFiles are expected here");
        RamFilesMessage message = RamFilesMessage.Read(header, _reader.ReadPayload(header));
        _ramFiles = _channel.Files!.Take();
        message.Check(header, _ramFiles, _host.Ram);
        RehearseBorrow();
        Say(FrameType.RamFilesTaken);
        _phase = "receiving states";
        TakeHandedStates();

        _phase = "mapping the source's RAM";
        _states!.Touch();
        IReadOnlyList<FileDescriptor> files = _ramFiles;
        _ramFiles = [];
        _host.Ram.Borrow(files);
    }

    /// <summary>What borrowing executes is executed for the first time now, while the guest runs.</summary>
    private static void RehearseBorrow()
    {
        using var lender = new GuestRam();
        using var borrower = new GuestRam();
        RamBlock lent = lender.Add("rehearsal", RamBlock.SizeUnit);
        RamBlock block = borrower.Add("rehearsal", RamBlock.SizeUnit);
        borrower.Borrow([lent.File.Duplicate()]);
        block.Write(0, [1], DirtySource.Vmm);
        borrower.Own();
    }

    private void TakeHandedStates()
    {
        for (; ; )
        {
            FrameHeader header = NextHeader();
            ReadOnlySpan<byte> payload = _reader.ReadPayload(header);
            switch (header.Type)
            {
                case FrameType.MachineStateBegin:
                    _states!.BeginMachineState(header, MachineStateBeginMessage.Read(header, payload), ahead: false);
                    if (_progress.State == MigrationState.Active)
                        SetState(MigrationState.Device);
                    break;
                case FrameType.MachineStateData:
                    _states!.TakeMachineState(header, payload);
                    break;
                case FrameType.MachineStateEnd:
                    _states!.EndMachineState(header, MachineStateEndMessage.Read(header, payload));
                    break;
                case FrameType.Prepare:
                    PrepareMessage prepare = PrepareMessage.Read(header, payload);
                    if (prepare.Rounds != 0)
                        MigrationStreamException.Throw(header, "rounds", prepare.Rounds, "a handover has none");
                    _states!.CheckComplete(header, prepare);
                    return;
                default:
                    MigrationStreamException.Throw(header, "type", header.Type.ToString(), "the source may not say this in a handover");
                    break;
            }

            _progress.StreamBytes = _reader.Bytes;
        }
    }

    private void ForgetFiles()
    {
        foreach (FileDescriptor file in _ramFiles)
            file.Dispose();
        _ramFiles = [];
    }
}
