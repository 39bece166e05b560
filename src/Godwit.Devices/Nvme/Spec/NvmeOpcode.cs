namespace Godwit.Devices;

/// <summary>Admin command opcodes (NVM Express Base 1.4, section 5).</summary>
internal enum AdminOpcode : byte
{
    DeleteSubmissionQueue = 0x00,
    CreateSubmissionQueue = 0x01,
    GetLogPage = 0x02,
    DeleteCompletionQueue = 0x04,
    CreateCompletionQueue = 0x05,
    Identify = 0x06,
    Abort = 0x08,
    SetFeatures = 0x09,
    GetFeatures = 0x0A,
    AsyncEventRequest = 0x0C,
}

/// <summary>NVM command set opcodes (NVM Express Base 1.4, section 6).</summary>
internal enum NvmOpcode : byte
{
    Flush = 0x00,
    Write = 0x01,
    Read = 0x02,
    Compare = 0x05,
    WriteZeroes = 0x08,
    DatasetManagement = 0x09,
}
